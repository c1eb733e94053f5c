// AVX2 with AVX-VNNI: vpdpbusd adds four products of unsigned by signed bytes to an int32 lane.
#include <cpuid.h>

#include "avx2_kernels.h"

namespace ptmo::kernels {
namespace {

struct DotProduct {
  struct Int4 {
    __m256i sum = _mm256_setzero_si256();
    void add(__m256i codes, __m256i four) { sum = _mm256_dpbusd_avx_epi32(sum, codes, four); }
    __m256i total() const { return sum; }
  };
  struct Int8 : Int4 { // signed codes become unsigned by adding 128
    static constexpr int kBias = 128;
    static __m256i prepare(__m256i codes) {
      return _mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(0x80)));
    }
  };
};

// CPUID leaf 7, subleaf 1: EAX bit 4. The compilers' own name for it is younger than the flag.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}

} // namespace

const Table* avxvnni() {
  static constexpr Table table = table_of<HalfPanels<DotProduct>>("avxvnni", attend_i8);
  return avx2_supported() && has_avx_vnni() ? &table : nullptr;
}

} // namespace ptmo::kernels
