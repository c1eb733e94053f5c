// AVX2 + FMA + F16C: vpmaddubsw multiplies unsigned by signed bytes into int16 pairs.
#include "avx2_kernels.h"

namespace ptmo::kernels {
namespace {

inline __m256i widen_pairs(__m256i x) {
  return _mm256_madd_epi16(x, _mm256_set1_epi16(1));
}

struct MultiplyAdd {
  // INT4 codes are at most 15, so the 16 products of a lane's half add up to at most
  // 8 * 2 * 15 * 128 = 30,720: they fit int16 and are widened once a block.
  struct Int4 {
    __m256i sum16 = _mm256_setzero_si256();
    void add(__m256i codes, __m256i four) {
      sum16 = _mm256_add_epi16(sum16, _mm256_maddubs_epi16(codes, four));
    }
    __m256i total() const { return widen_pairs(sum16); }
  };
  // The activations' signs move to the codes. Codes of -128 are refused when a matrix is packed, so
  // no pair exceeds 2 * 127 * 128 = 32,512.
  struct Int8 {
    static constexpr int kBias = 0;
    __m256i sum = _mm256_setzero_si256();
    static __m256i prepare(__m256i codes) { return codes; }
    void add(__m256i codes, __m256i four) {
      const __m256i pairs =
          _mm256_maddubs_epi16(_mm256_abs_epi8(four), _mm256_sign_epi8(codes, four));
      sum = _mm256_add_epi32(sum, widen_pairs(pairs));
    }
    __m256i total() const { return sum; }
  };
};

} // namespace

const Table* avx2() {
  static constexpr Table table = table_of<HalfPanels<MultiplyAdd>>("avx2", attend_i8);
  return avx2_supported() ? &table : nullptr;
}

} // namespace ptmo::kernels
