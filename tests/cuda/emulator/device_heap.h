// The emulated device's memory: the host reaches it no more than a GPU's. It is open only while the
// device works, so that a pointer followed on the wrong side ends the program.
//
// A write just behind a block is found when the block is freed; it ends the program too. Under
// AddressSanitizer it is the host's heap instead, where each block has its exact size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace cuda_emulator {

// What is allocated: start and size.
std::map<uint8_t*, size_t>& device_memory();

// Null where there is no room left.
uint8_t* allocate(size_t bytes);
void release(uint8_t* block);

bool on_device(const void* p, size_t bytes);

// The device's memory is open while one of these lives.
class DeviceAccess {
public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

} // namespace cuda_emulator
