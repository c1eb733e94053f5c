// Whether a device can be used, and what is said where it cannot.
#include "check.h"
#include "cuda/usable.h"
#include "device_under_test.h"

namespace ptmo::test {

using cuda::usable_devices;
using cuda::why_no_device;

// First: a device that ran a kernel is not asked again.
TEST(a_device_that_the_code_is_not_for_is_named_beside_what_it_is_for) {
  fail_after(DeviceCall::kLaunch, 0);
  const cuda::UsableDevices found = usable_devices("sm_53 sm_87");
  fail_after(DeviceCall::kLaunch, -1);
  CHECK_EQ(found.count, 0);
  CHECK_EQ(found.why_none,
           std::string("this build has code for sm_53 sm_87, the device is sm_90: build for it by "
                       "PTMO_CUDA_ARCHS=native .venv/bin/pip install --no-build-isolation -e ."));
}

TEST(a_device_that_runs_a_kernel_is_usable) {
  const cuda::UsableDevices found = usable_devices("sm_87");
  CHECK_EQ(found.why_none, std::string());
  CHECK(found.count >= 1);
}

TEST(a_kernel_is_launched_once_a_device) {
  usable_devices("sm_87");
  fail_after(DeviceCall::kLaunch, 0);
  const int count = usable_devices("sm_87").count;
  fail_after(DeviceCall::kLaunch, -1);
  CHECK_EQ(count, 1);
}

TEST(a_driver_that_is_missing_or_too_old_is_named) {
  CHECK_EQ(why_no_device(cudaErrorInsufficientDriver, 0, 13000),
           std::string("no CUDA driver is installed"));
  CHECK_EQ(why_no_device(cudaErrorInsufficientDriver, 11040, 12060),
           std::string("the CUDA driver is of CUDA 11.4, this build needs 12.6"));
  CHECK_EQ(why_no_device(cudaSuccess, 13000, 13000), std::string("the CUDA driver sees no device"));
  CHECK_EQ(why_no_device(cudaErrorMemoryAllocation, 13000, 13000), std::string("out of memory"));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
