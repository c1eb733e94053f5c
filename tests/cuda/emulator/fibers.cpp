#include "context.h"
#include "cuda_runtime.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace cuda_emulator {

Schedule schedule;
std::function<void(const uint8_t*, size_t)> inspect_shared;
Uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr uint8_t kPoison = 0xff; // NaN as a float or a half, -1 as a code
constexpr unsigned kWarp = 32;
constexpr size_t kSharedBytes = 48 * 1024;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, valid;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  Uint3 index;
  bool done = false;
  const char* waits_at = nullptr; // null: it can run
  std::vector<Copy> uncommitted;
  std::vector<std::vector<Copy>> groups;
};

// An exchange of a warp. Two buffers: a lane may enter the next exchange before the last has read.
struct Warp {
  const char* what = nullptr;
  uint32_t mask = 0, arrived = 0;
  size_t bytes = 0;
  unsigned turn = 0;
  std::vector<uint8_t> slots[2];
};

class Block {
public:
  void run(size_t threads, const std::function<void()>& body);
  Fiber& current() { return *fibers_[running_]; }
  void wait(const char* what) {
    current().waits_at = what;
    current().context.switch_to(scheduler_);
  }
  [[noreturn]] void fail(const std::string& message) const {
    std::ostringstream out;
    out << message << " (block " << block_index.x << "," << block_index.y << "," << block_index.z
        << ", thread " << thread_index.x << ")";
    throw std::runtime_error(out.str());
  }
  void sync();
  const uint8_t* exchange(const char* what, uint32_t mask, const void* in, size_t bytes);
  void* shared_array(const void* place, size_t bytes);
  void forget_threads();
  unsigned lane() const { return static_cast<unsigned>(running_ % kWarp); }

  const std::function<void()>* body = nullptr;
  std::exception_ptr error;

private:
  static void enter();
  void start(Fiber& fiber, size_t stagger);
  std::vector<size_t> order(size_t threads) const;
  bool run_some(const size_t* turns, size_t count);
  void release(const char* what, size_t first, size_t count);

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  size_t running_ = 0, threads_ = 0, at_barrier_ = 0, done_ = 0;
  struct SharedArray {
    std::unique_ptr<void, decltype(&std::free)> memory;
    size_t bytes;
  };
  std::map<const void*, SharedArray> shared_;
  size_t shared_bytes_ = 0;
  Context scheduler_;
};

Block block;

void Block::enter() {
  block.scheduler_.entered();
  try {
    (*block.body)();
    if (!block.current().uncommitted.empty() || !block.current().groups.empty())
      block.fail("a thread ended before its asynchronous copies arrived");
  } catch (...) {
    block.error = std::current_exception();
  }
  block.current().done = true;
  ++block.done_;
  for (;;)
    block.current().context.switch_to(block.scheduler_);
}

// Stacks begin at other places of a memory page each: tops that are whole pages apart would fight
// for the same few lines of the cache.
void Block::start(Fiber& fiber, size_t stagger) {
  fiber.done = false;
  fiber.waits_at = nullptr;
  fiber.uncommitted.clear();
  fiber.groups.clear();
  fiber.context.start(fiber.stack.get(), kStackBytes - stagger, &Block::enter);
}

std::vector<size_t> Block::order(size_t threads) const {
  std::vector<size_t> out(threads);
  std::iota(out.begin(), out.end(), size_t{0});
  if (schedule.order == Order::kBackward)
    std::reverse(out.begin(), out.end());
  if (schedule.order == Order::kShuffled)
    std::shuffle(out.begin(), out.end(), std::mt19937(schedule.seed));
  return out;
}

void Block::run(size_t threads, const std::function<void()>& kernel) {
  shared_.clear();
  shared_bytes_ = 0;
  body = &kernel;
  error = nullptr;
  threads_ = threads;
  at_barrier_ = done_ = 0;
  while (fibers_.size() < threads)
    fibers_.push_back(std::make_unique<Fiber>());
  warps_.assign((threads + kWarp - 1) / kWarp, Warp{});
  for (size_t i = 0; i < threads; ++i) {
    fibers_[i]->index = {static_cast<unsigned>(i % block_size.x),
                         static_cast<unsigned>(i / block_size.x % block_size.y),
                         static_cast<unsigned>(i / block_size.x / block_size.y)};
    start(*fibers_[i], i % 64 * 320);
  }
  const std::vector<size_t> turns = order(threads);
  const size_t together = schedule.order == Order::kShuffled ? threads : kWarp;
  for (bool ran = true; ran;) {
    ran = false;
    for (size_t first = 0; first < threads; first += together)
      while (run_some(turns.data() + first, together))
        ran = true;
  }
  for (size_t i = 0; i < threads; ++i) {
    if (fibers_[i]->done)
      continue;
    running_ = i;
    thread_index = fibers_[i]->index;
    fail(std::string("waits in vain at ") + fibers_[i]->waits_at);
  }
  for (const auto& [place, array] : shared_)
    if (inspect_shared)
      inspect_shared(static_cast<const uint8_t*>(array.memory.get()), array.bytes);
}

// Gives each of these threads a turn; false where none can run.
bool Block::run_some(const size_t* turns, size_t count) {
  bool ran = false;
  for (const size_t* i = turns; i < turns + count; ++i) {
    Fiber& fiber = *fibers_[*i];
    if (fiber.done || fiber.waits_at != nullptr)
      continue;
    ran = true;
    running_ = *i;
    thread_index = fiber.index;
    scheduler_.switch_to(fiber.context);
    if (error)
      std::rethrow_exception(error);
  }
  return ran;
}

void Block::release(const char* what, size_t first, size_t count) {
  for (size_t i = first; i < std::min(first + count, threads_); ++i) {
    if (fibers_[i]->waits_at == what)
      fibers_[i]->waits_at = nullptr;
  }
}

void Block::sync() {
  static const char* const kWhat = "__syncthreads";
  ++at_barrier_;
  if (at_barrier_ + done_ == threads_) {
    at_barrier_ = 0;
    release(kWhat, 0, threads_);
  } else {
    wait(kWhat);
  }
}

const uint8_t* Block::exchange(const char* what, uint32_t mask, const void* in, size_t bytes) {
  Warp& warp = warps_[running_ / kWarp];
  const uint32_t self = 1u << lane();
  if (!(mask & self))
    fail(std::string(what) + " by a lane outside its mask");
  if (warp.arrived == 0) {
    warp.what = what;
    warp.mask = mask;
    warp.bytes = bytes;
    warp.turn ^= 1;
    warp.slots[warp.turn].assign(kWarp * std::max<size_t>(bytes, 1), 0);
  } else if ((warp.what != what && std::strcmp(warp.what, what) != 0) || warp.mask != mask ||
             warp.bytes != bytes) {
    fail(std::string("lanes of a warp disagree: ") + warp.what + " and " + what);
  }
  uint8_t* slots = warp.slots[warp.turn].data();
  if (bytes > 0)
    std::memcpy(slots + lane() * bytes, in, bytes);
  warp.arrived |= self;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    release(warp.what, running_ / kWarp * kWarp, kWarp);
  } else {
    wait(warp.what);
  }
  return slots;
}

void Block::forget_threads() {
  for (const auto& fiber : fibers_)
    std::memset(fiber->stack.get(), 0, kStackBytes);
  for (Warp& warp : warps_)
    for (std::vector<uint8_t>& slots : warp.slots)
      std::fill(slots.begin(), slots.end(), uint8_t{0});
  shared_.clear();
}

void* Block::shared_array(const void* place, size_t bytes) {
  auto found = shared_.find(place);
  if (found == shared_.end()) {
    shared_bytes_ += bytes;
    if (shared_bytes_ > kSharedBytes)
      fail("more shared memory than a block has without asking");
    void* memory = nullptr; // of its exact size, which aligned_alloc would have to round
    if (posix_memalign(&memory, 16, bytes) != 0)
      throw std::bad_alloc();
    SharedArray array{{memory, &std::free}, bytes};
    std::memset(array.memory.get(), kPoison, bytes);
    found = shared_.emplace(place, std::move(array)).first;
  }
  return found->second.memory.get();
}

void arrive(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    std::memcpy(copy.to, copy.from, copy.valid);
    std::memset(static_cast<uint8_t*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
  }
}

} // namespace

void run_grid(dim3 grid, dim3 block_dim, const std::function<void()>& body) {
  const size_t threads = size_t{block_dim.x} * block_dim.y * block_dim.z;
  if (threads == 0 || threads > 1024 || threads % kWarp != 0)
    throw std::runtime_error("a block has whole warps, 1024 threads at most");
  grid_size = grid;
  block_size = block_dim;
  const DeviceAccess open;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        block.run(threads, body);
      }
    }
  }
}

void forget_threads() {
  block.forget_threads();
}

void* shared_array(const void* place, size_t bytes) {
  return block.shared_array(place, bytes);
}
unsigned lane() {
  return block.lane();
}
void sync_block() {
  block.sync();
}
const uint8_t* exchange(const char* what, uint32_t mask, const void* in, size_t bytes) {
  return block.exchange(what, mask, in, bytes);
}

void begin_copy(void* to, const void* from, size_t bytes, size_t valid) {
  std::memset(to, kPoison, bytes);
  block.current().uncommitted.push_back({to, from, bytes, valid});
}
void commit_copies() {
  Fiber& fiber = block.current();
  fiber.groups.push_back(std::move(fiber.uncommitted));
  fiber.uncommitted.clear();
}
void wait_copies(int groups_left) {
  auto& groups = block.current().groups;
  while (groups.size() > static_cast<size_t>(groups_left)) {
    arrive(groups.front());
    groups.erase(groups.begin());
  }
}

} // namespace cuda_emulator
