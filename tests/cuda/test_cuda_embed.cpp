// Rows of the embeddings from the device's order against the engine's own.
#include "check.h"
#include "every_order.h"
#include "guarded.h"
#include "model/weights.h"

namespace ptmo::test {

TEST(rows_are_the_engines_bit_for_bit) {
  Random random(1);
  const struct {
    WeightType type;
    int group;
  } types[] = {{WeightType::kInt4, 32},          {WeightType::kInt4, 64},
               {WeightType::kInt4, 128},         {WeightType::kInt4Symmetric, 32},
               {WeightType::kInt4Symmetric, 64}, {WeightType::kInt4Symmetric, 128},
               {WeightType::kInt8, 32}};
  for (const auto& type : types) {
    for (const int cols : {32, 96, 128, 576, 1152}) {
      if (cols % type.group != 0)
        continue;
      set_context("type ", static_cast<int>(type.type), " group ", type.group, " cols ", cols);
      constexpr int kRows = 41;
      PlainMatrix m = random_matrix(random, type.type, kRows, cols, type.group);
      m.scales[0] = 1; // the least half
      const PanelMatrix panels(m);
      const DeviceWeights weights(m);
      std::vector<int32_t> list = {40, 0, 8, 8, 15, 16, 31, -1, kRows, 1 << 30};
      const DeviceArray<int32_t> tokens(list);
      const float scale = cols == 96 ? 1.0f : 33.9411255f;
      const std::vector<float> got = in_every_order([&] {
        const Guarded<float> out(list.size() * static_cast<size_t>(cols));
        CHECK_EQ(cuda::embed(weights.matrix, tokens.data(), static_cast<int>(list.size()), scale,
                             out.data(), nullptr),
                 cudaSuccess);
        out.check();
        return out.values();
      });
      std::vector<float> want(got.size(), 0.0f); // tokens that the matrix lacks: zeros
      for (size_t t = 0; t < list.size(); ++t) {
        if (list[t] < 0 || list[t] >= kRows)
          continue;
        float* row = want.data() + t * static_cast<size_t>(cols);
        copy_row(panels.packed, list[t], row);
        for (int c = 0; c < cols; ++c)
          row[c] *= scale;
      }
      CHECK(same_bits(got, want));
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
