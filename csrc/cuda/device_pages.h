// KV pages in a device's memory, byte for byte as csrc/kv/page_table.h has them.
//
// The host keeps a copy of what stands in the clear, the header and the sequence numbers, and
// nothing else of a page.
#pragma once

#include <string>

#include "device.h"
#include "kv/page_table.h"

namespace ptmo::cuda {

class DevicePages : public PageArena {
public:
  // All of the memory is taken and zeroed now: std::runtime_error where the device has too little.
  DevicePages(const PageLayout& layout, int capacity_pages);
  ~DevicePages() override;

  uint8_t* device_page(int page) const {
    return memory_.data() + static_cast<size_t>(page) * layout().page_bytes();
  }

  // What is put on it comes in order with what happens to the pages.
  const Stream& stream() const { return stream_; }

  bool on_device() const override { return true; }
  uint64_t address(int page) const override;
  void publish(int page) override;
  void wipe(int page, size_t offset, size_t bytes) override;
  void copy(int from, int to, size_t offset, size_t bytes) override;
  void settle() override;
  void require_usable() const override;
  void read(int page, size_t offset, size_t bytes, uint8_t* out) const override;
  void write(int page, size_t offset, size_t bytes, const uint8_t* in) override;

private:
  // Calls f(offset, bytes) for the part of a range that the host has a copy of, if any.
  template <typename F> void visible_part(size_t offset, size_t bytes, F f) const;

  void note(cudaError_t error, const char* what);

  Stream stream_;
  DeviceMemory memory_;
  std::string failure_; // the first one; empty: none
};

} // namespace ptmo::cuda
