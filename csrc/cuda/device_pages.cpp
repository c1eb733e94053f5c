#include "device_pages.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {

DevicePages::DevicePages(const PageLayout& layout, int capacity_pages)
    : PageArena(layout, capacity_pages, layout.data_offset()),
      memory_(layout.page_bytes() * static_cast<size_t>(capacity_pages)) {
  check_call(cudaMemsetAsync(memory_.data(), 0, memory_.size(), stream_), "zeroing the pages");
  stream_.wait();
}

DevicePages::~DevicePages() = default; // the memory is zeroed as it is given back

template <typename F> void DevicePages::visible_part(size_t offset, size_t bytes, F f) const {
  const size_t end = std::min(offset + bytes, layout().data_offset());
  if (offset < end)
    f(offset, end - offset);
}

uint64_t DevicePages::address(int page) const {
  return reinterpret_cast<uintptr_t>(device_page(page));
}

void DevicePages::note(cudaError_t error, const char* what) {
  if (error != cudaSuccess && failure_.empty())
    failure_ = std::string("the CUDA device failed at ") + what + ": " + cudaGetErrorString(error);
}

void DevicePages::require_usable() const {
  ensure(failure_.empty(), failure_, "; its KV cache is lost: load the engine anew");
}

void DevicePages::settle() {
  note(cudaStreamSynchronize(stream_), "its pages");
}

void DevicePages::publish(int page) {
  note(cudaMemcpyAsync(device_page(page), this->page(page), layout().data_offset(),
                       cudaMemcpyHostToDevice, stream_),
       "writing a page's header");
}

void DevicePages::wipe(int page, size_t offset, size_t bytes) {
  visible_part(offset, bytes, [&](size_t at, size_t n) { secure_wipe(this->page(page) + at, n); });
  note(cudaMemsetAsync(device_page(page) + offset, 0, bytes, stream_), "zeroing a page");
}

void DevicePages::copy(int from, int to, size_t offset, size_t bytes) {
  visible_part(offset, bytes,
               [&](size_t at, size_t n) { std::memcpy(page(to) + at, page(from) + at, n); });
  note(cudaMemcpyAsync(device_page(to) + offset, device_page(from) + offset, bytes,
                       cudaMemcpyDeviceToDevice, stream_),
       "copying a page");
}

void DevicePages::read(int page, size_t offset, size_t bytes, uint8_t* out) const {
  check_call(
      cudaMemcpyAsync(out, device_page(page) + offset, bytes, cudaMemcpyDeviceToHost, stream_),
      "reading a page");
  stream_.wait();
}

void DevicePages::write(int page, size_t offset, size_t bytes, const uint8_t* in) {
  visible_part(offset, bytes, [&](size_t at, size_t n) {
    std::memcpy(this->page(page) + at, in + (at - offset), n);
  });
  check_call(
      cudaMemcpyAsync(device_page(page) + offset, in, bytes, cudaMemcpyHostToDevice, stream_),
      "writing a page");
  stream_.wait();
}

} // namespace ptmo::cuda
