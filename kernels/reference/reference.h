// The reference level's functions, for other levels to borrow where speed does not matter.
#pragma once

#include "../kernels.h"

namespace ptmo::kernels::ref {

void quantize_blocks(const float* x, int cols, int8_t* codes, int8_t* low, float* scales,
                     float* sums, int32_t* code_sums);
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
float quantize_row_i4(const float* x, int n, uint8_t* out);
void unpack_rows_i4(const uint8_t* packed, int rows, int n, int8_t* codes);
void attend_i8(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
void attend_f16(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
void attend_f32(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
void fold_partials(const float* partials, int count, int dim, float* totals);
void geglu(const float* gate, const float* up, int n, float* out);
void head_rms_norm(float* x, const float* weight, int n, float eps);
void low_rank_add(const LowRankTerm* terms, int count, int panel_begin, int panel_end, int tokens,
                  float* y, size_t y_stride);

} // namespace ptmo::kernels::ref
