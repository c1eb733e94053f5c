// The reference level's functions, for other levels to borrow where speed does not matter.
#pragma once

#include "../kernels.h"

namespace ptmo::kernels::ref {

void quantize_blocks(const float* x, int cols, int8_t* codes, float* scales, float* sums,
                     int32_t* code_sums);
void matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x, int tokens,
            float* y, size_t y_stride);
void rms_norm(const float* x, const float* weight, int n, float eps, float* y);
void swiglu(const float* gate, const float* up, int n, float* out);
void add(const float* x, int n, float* y);
void cos_sin(const float* angle, int n, float* cosine, float* sine);
void rope(float* x, const float* cosine, const float* sine, int half);
float quantize_row_i8(const float* x, int n, int8_t* codes);
float quantize_row_i16(const float* x, int n, int16_t* codes);
void to_f16(const float* x, int n, uint16_t* out);
void dot_rows_i8(const int16_t* q, const int8_t* k, int rows, int dim, int32_t* out);
void dot_rows_f16(const float* q, const uint16_t* k, int rows, int dim, float* out);
void dot_rows_f32(const float* q, const float* k, int rows, int dim, float* out);
float exp_sum(float* x, int n, float max);
void weighted_rows_i8(const float* p, const int8_t* v, int rows, int dim, float* acc);
void weighted_rows_f16(const float* p, const uint16_t* v, int rows, int dim, float* acc);
void weighted_rows_f32(const float* p, const float* v, int rows, int dim, float* acc);
void geglu(const float* gate, const float* up, int n, float* out);
void head_rms_norm(float* x, const float* weight, int n, float eps);
void low_rank_add(const LowRankTerm* terms, int count, int panel_begin, int panel_end, int tokens,
                  float* y, size_t y_stride);

} // namespace ptmo::kernels::ref
