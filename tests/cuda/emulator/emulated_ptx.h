// kernels/cuda/ptx.cuh on the CPU; included there, inside namespace ptmo::cuda.

// A and B as all lanes of the warp hold them.
struct MmaOperands {
  struct {
    AFragment a;
    BFragment b;
  } of_lane[32];

  MmaOperands(const char* what, const AFragment& a, const BFragment& b) {
    of_lane[0] = {a, b};
    const uint8_t* all = cuda_emulator::exchange(what, 0xffffffffu, of_lane, sizeof(of_lane[0]));
    std::memcpy(of_lane, all, sizeof(of_lane));
  }
  // The register that a lane of a row of A, or of a column of B, has of a half of k.
  uint32_t a(unsigned row, unsigned lane, unsigned half) const {
    return of_lane[row % 8 * 4 + lane].a.r[row / 8 + 2 * half];
  }
  uint32_t b(unsigned col, unsigned lane, unsigned half) const {
    return of_lane[col * 4 + lane].b.r[half];
  }
};

// What each lane holds of A and B goes to all; a lane computes its own four elements of C.
template <typename A>
CFragment emulated_mma(const char* what, const AFragment& a, const BFragment& b, CFragment c) {
  const MmaOperands all(what, a, b);
  const unsigned g = cuda_emulator::lane() / 4, p = cuda_emulator::lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), col = 2 * p + i % 2;
    int32_t sum = 0; // of 32 products: far below 2^31
    for (unsigned word = 0; word < 8; ++word) {
      const uint32_t x = all.a(row, word % 4, word / 4), y = all.b(col, word % 4, word / 4);
      for (unsigned k = 0; k < 4; ++k)
        sum += int32_t{static_cast<A>(x >> 8 * k)} * static_cast<int8_t>(y >> 8 * k);
    }
    c.r[i] = static_cast<int32_t>(static_cast<uint32_t>(c.r[i]) + static_cast<uint32_t>(sum));
  }
  return c;
}

inline CFragment mma_s8(const AFragment& a, const BFragment& b, const CFragment& c) {
  return emulated_mma<int8_t>("mma_s8", a, b, c);
}
inline CFragment mma_u8(const AFragment& a, const BFragment& b, const CFragment& c) {
  return emulated_mma<uint8_t>("mma_u8", a, b, c);
}

// The device adds the 16 products of a step in an order and to a precision of its own.
inline FloatFragment mma_f16(const AFragment& a, const BFragment& b, FloatFragment c) {
  const MmaOperands all("mma_f16", a, b);
  const unsigned g = cuda_emulator::lane() / 4, p = cuda_emulator::lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), col = 2 * p + i % 2;
    for (unsigned word = 0; word < 8; ++word) {
      const uint32_t x = all.a(row, word % 4, word / 4), y = all.b(col, word % 4, word / 4);
      for (unsigned k = 0; k < 2; ++k)
        c.r[i] += half_to_float(static_cast<uint16_t>(x >> 16 * k)) *
                  half_to_float(static_cast<uint16_t>(y >> 16 * k));
    }
  }
  return c;
}

inline void copy16_async(void* shared, const void* global, bool wanted) {
  cuda_emulator::begin_copy(shared, global, 16, wanted ? 16 : 0);
}
inline void copy8_async(void* shared, const void* global, bool wanted) {
  cuda_emulator::begin_copy(shared, global, 8, wanted ? 8 : 0);
}
inline void wipe16(void* shared) {
  std::memset(shared, 0, 16);
}
inline void commit_copies() {
  cuda_emulator::commit_copies();
}
template <int Left> void wait_copies() {
  cuda_emulator::wait_copies(Left);
}

template <typename T> void load_if(bool wanted, const void* p, T& v) {
  if (wanted)
    std::memcpy(&v, p, sizeof(v));
}
inline void load_once_if(bool wanted, const void* p, uint4& v) {
  load_if(wanted, p, v);
}

inline float from_half(uint16_t h) {
  return half_to_float(h);
}

inline uint16_t to_half(float f) {
  return float_to_half(f);
}

#define PTMO_SHARED(type, name, count)                                                             \
  type* const name = static_cast<type*>(cuda_emulator::shared_array(                               \
      [] {                                                                                         \
        static char place;                                                                         \
        return &place;                                                                             \
      }(),                                                                                         \
      (count) * sizeof(type)))
