#include "page_table.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/check.h"
#include "secmem/secret_arena.h"

namespace ptmo {

PageLayout::PageLayout(int layers, int kv_heads, int dim, int rows_per_page, KvType kv_type)
    : n_layers(layers), n_kv_heads(kv_heads), head_dim(dim), rows(rows_per_page), type(kv_type) {
  require(layers >= 1 && layers <= 1024, "n_layers=", layers, " is not in 1..1024");
  require(kv_heads >= 1 && kv_heads <= 1024, "n_kv_heads=", kv_heads, " is not in 1..1024");
  require(dim >= 16 && dim <= 512 && dim % 16 == 0, "head_dim=", dim,
          " is not a multiple of 16 in 16..512");
  require(rows_per_page == 16 || rows_per_page == 32, "rows_per_page=", rows_per_page,
          " is not 16 or 32");
}

size_t PageLayout::element_bytes() const {
  return has_scales() ? 1 : type == KvType::kF16 ? 2 : 4;
}

std::vector<PageLayout::Record> PageLayout::records() const {
  std::vector<Record> out = {{0, row_bytes()}, {tile_bytes(), row_bytes()}};
  if (has_scales())
    out.push_back({2 * tile_bytes(), 8});
  return out;
}

size_t PageLayout::page_bytes() const {
  const size_t bytes = head_offset(n_layers, 0);
  return (bytes + 63) / 64 * 64;
}

size_t PageLayout::bytes_per_token() const {
  return static_cast<size_t>(n_layers) * n_kv_heads * (2 * row_bytes() + (has_scales() ? 8 : 0));
}

PageArena::PageArena(const PageLayout& layout, int capacity_pages)
    : PageArena(layout, capacity_pages, layout.page_bytes()) {}

PageArena::PageArena(const PageLayout& layout, int capacity_pages, size_t visible)
    : layout_(layout), stride_(visible) {
  require(capacity_pages >= 1 && capacity_pages <= (1 << 20), "capacity_pages=", capacity_pages,
          " is not in 1..2^20");
  mapped_ = stride_ * static_cast<size_t>(capacity_pages);
  void* base = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ensure(base != MAP_FAILED, "no address space for a KV cache of ", mapped_,
         " bytes: ", std::strerror(errno));
  madvise(base, mapped_, MADV_DONTDUMP);
  madvise(base, mapped_, MADV_HUGEPAGE); // attention reads a little of every page a layer
  base_ = static_cast<uint8_t*>(base);
  users_.assign(static_cast<size_t>(capacity_pages), 0);
}

PageArena::~PageArena() {
  for (const int page : pages_in_use())
    secure_wipe(this->page(page), stride_);
  munmap(base_, mapped_);
}

std::vector<int> PageArena::allocate(size_t count) {
  require_usable();
  std::vector<int> out;
  for (size_t i = 0; i < users_.size() && out.size() < count; ++i)
    if (users_[i] == 0)
      out.push_back(static_cast<int>(i));
  ensure(out.size() == count, "the KV cache is full: ", count, " of ", users_.size(),
         " pages are needed, ", out.size(), " are free");
  for (const int page : out)
    users_[static_cast<size_t>(page)] = 1;
  return out;
}

void PageArena::share(int page) {
  ++users_[static_cast<size_t>(page)];
}

bool PageArena::free(int page) {
  const bool last = users(page) == 1;
  if (last) {
    wipe(page, 0, layout_.page_bytes());
    publish(page);
  }
  --users_[static_cast<size_t>(page)];
  return last;
}

std::vector<int> PageArena::pages_in_use() const {
  std::vector<int> out;
  for (size_t i = 0; i < users_.size(); ++i)
    if (users_[i] > 0)
      out.push_back(static_cast<int>(i));
  return out;
}

uint64_t PageArena::address(int page) const {
  return reinterpret_cast<uintptr_t>(this->page(page));
}

void PageArena::wipe(int page, size_t offset, size_t bytes) {
  secure_wipe(this->page(page) + offset, bytes);
}

void PageArena::copy(int from, int to, size_t offset, size_t bytes) {
  std::memcpy(page(to) + offset, page(from) + offset, bytes);
}

void PageArena::read(int page, size_t offset, size_t bytes, uint8_t* out) const {
  std::memcpy(out, this->page(page) + offset, bytes);
}

void PageArena::write(int page, size_t offset, size_t bytes, const uint8_t* in) {
  std::memcpy(this->page(page) + offset, in, bytes);
}

} // namespace ptmo
