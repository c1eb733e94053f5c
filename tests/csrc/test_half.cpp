// binary16 conversions: all halfs, and floats against the CPU's own instruction.
#include "check.h"
#include "samples.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ptmo::test {
namespace {

float from_bits(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

bool is_nan_half(uint16_t h) {
  return (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) uint16_t hardware_half(float x) {
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}
__attribute__((target("f16c"))) float hardware_float(uint16_t h) {
  return _cvtsh_ss(h);
}
bool has_hardware() {
  return __builtin_cpu_supports("f16c");
}
#else
uint16_t hardware_half(float) {
  return 0;
}
float hardware_float(uint16_t) {
  return 0.0f;
}
bool has_hardware() {
  return false;
}
#endif

} // namespace

TEST(every_half_survives_the_round_trip) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<uint16_t>(h);
    set_context("half ", h);
    const uint16_t back = float_to_half(half_to_float(half));
    if (is_nan_half(half)) {
      CHECK(std::isnan(half_to_float(half)) && is_nan_half(back));
    } else {
      CHECK_EQ(back, half);
    }
  }
}

TEST(halfs_have_the_values_the_standard_gives_them) {
  CHECK_EQ(half_to_float(0x0001), 0x1p-24f);
  CHECK_EQ(half_to_float(0x03ff), 1023.0f * 0x1p-24f);
  CHECK_EQ(half_to_float(0x0400), 0x1p-14f);
  CHECK_EQ(half_to_float(0x3c01), 1.0f + 0x1p-10f);
  CHECK_EQ(half_to_float(0xfbff), -65504.0f);
  CHECK_EQ(half_to_float(0x7c00), HUGE_VALF);
  CHECK(std::signbit(half_to_float(0x8000)));
}

TEST(floats_round_to_the_nearest_half_and_ties_to_the_even_one) {
  CHECK_EQ(float_to_half(1.0f + 0x1p-11f), 0x3c00);            // tie: down to even
  CHECK_EQ(float_to_half(1.0f + 3 * 0x1p-11f), 0x3c02);        // tie: up to even
  CHECK_EQ(float_to_half(1.0f + 0x1p-11f + 0x1p-23f), 0x3c01); // just above a tie
  CHECK_EQ(float_to_half(0x1p-25f), 0x0000);                   // half the least subnormal
  CHECK_EQ(float_to_half(from_bits(0x33000001)), 0x0001);      // just above it
  CHECK_EQ(float_to_half(-3 * 0x1p-25f), 0x8002);              // tie between subnormals
  CHECK_EQ(float_to_half(0x1p-14f - 0x1p-25f), 0x0400);        // up to the least normal
  CHECK_EQ(float_to_half(65519.996f), 0x7bff);
  CHECK_EQ(float_to_half(65520.0f), 0x7c00); // tie: up, to infinity
  CHECK_EQ(float_to_half(-HUGE_VALF), 0xfc00);
}

TEST(conversions_equal_the_hardware_on_a_dense_sample) {
  if (!has_hardware()) {
    std::printf("     (this CPU has no F16C: nothing to compare with)\n");
    return;
  }
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<uint16_t>(h);
    set_context("half ", h);
    if (!is_nan_half(half))
      CHECK_EQ(half_to_float(half), hardware_float(half));
  }
  // Around every half: the value, both neighbours in float, and the tie to the next half.
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const float value = half_to_float(static_cast<uint16_t>(h));
      const float next = h == 0x7bff ? 65536.0f : half_to_float(static_cast<uint16_t>(h + 1));
      for (const float centre : {value, (value + next) / 2.0f}) {
        uint32_t bits;
        std::memcpy(&bits, &centre, 4);
        for (const uint32_t near : {bits == 0 ? bits : bits - 1, bits, bits + 1}) {
          const float x = from_bits(near | sign);
          set_context("float bits ", near | sign);
          CHECK_EQ(float_to_half(x), hardware_half(x));
        }
      }
    }
  }
  for (uint64_t bits = 0; bits < 0x100000000u; bits += 4099) { // a stride coprime to 2^32
    const float x = from_bits(static_cast<uint32_t>(bits));
    set_context("float bits ", bits);
    if (std::isnan(x)) {
      CHECK(is_nan_half(float_to_half(x)));
    } else {
      CHECK_EQ(float_to_half(x), hardware_half(x));
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
