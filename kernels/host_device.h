// Marks what host and device code share: plain C++ to a compiler that knows no CUDA.
#pragma once

#ifdef __CUDACC__
#define PTMO_HD __host__ __device__
#define PTMO_UNROLL _Pragma("unroll")
#else
#define PTMO_HD
#define PTMO_UNROLL
#endif
