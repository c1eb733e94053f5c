// Runs device code several times, in several orders of its threads where the device lets a test
// choose: they must not matter.
#pragma once

#include "check.h"
#include "device_under_test.h"

namespace ptmo::test {

// `run` returns the bytes (a vector) that the kernels wrote: the same in every order, or they race.
template <typename Run> auto in_every_order(Run run) {
  const auto once = [&](int schedule) {
    use_schedule(schedule);
    auto out = run();
    finish_device_work();
    return out;
  };
  const auto first = once(0);
  for (int schedule = 1; schedule < kSchedules; ++schedule) {
    const auto other = once(schedule);
    if (first.size() != other.size() ||
        std::memcmp(first.data(), other.data(), first.size() * sizeof(first[0])) != 0)
      fail(__FILE__, __LINE__, "the result depends on the order of the threads");
  }
  use_schedule(0);
  return first;
}

} // namespace ptmo::test
