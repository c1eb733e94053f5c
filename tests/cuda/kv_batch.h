// A chunk of tokens on its way into the cache, on the device and as the CPU's reference level
// does it.
#pragma once

#include <algorithm>

#include "device_samples.h"
#include "every_order.h"
#include "kv/page_table.h"

namespace ptmo::test {

struct KvShape {
  int tokens, n_kv_heads, group, dim; // group: query heads of a KV head
  KvType type = KvType::kInt8;
  int page_rows = 16, n_layers = 2, layer = 1;
  bool norm = false, table_per_head = false;

  int n_heads() const { return n_kv_heads * group; }
  size_t row() const { return static_cast<size_t>(n_kv_heads) * dim; }
  PageLayout layout() const { return {n_layers, n_kv_heads, dim, page_rows, type}; }
  cuda::KvPages pages() const {
    return {static_cast<cuda::KvElement>(type), n_kv_heads, dim, page_rows};
  }
};

// What the kernel leaves.
struct KvStored {
  std::vector<float> q;
  std::vector<uint8_t> pages;
};

constexpr uint8_t kPagePoison = 0xa5;

struct KvBatch {
  struct Place {
    int page, row, key;
    uint64_t seq;
  };

  KvShape shape;
  int table_width, page_count = 3;
  float eps = 1e-6f;
  std::vector<float> q, k, v, q_norm, k_norm, cosine, sine;
  std::vector<Place> places;
  cuda::SealKeys keys;

  // Random values; token t has key t % 17 - 1, and rows of a page of its own and others, the ends
  // of a page first.
  KvBatch(Random& random, const KvShape& s)
      : shape(s), table_width(s.dim / 2 * (s.table_per_head ? s.n_kv_heads : 1)) {
    const auto tokens = static_cast<size_t>(s.tokens);
    q = random.normals(tokens * s.row() * s.group, 2.0f);
    k = random.normals(tokens * s.row(), 2.0f);
    v = random.normals(tokens * s.row());
    if (s.norm) {
      q_norm = random.normals(s.row());
      k_norm = random.normals(s.row());
    }
    for (size_t i = 0; i < tokens * table_width; ++i) {
      const float angle = random.uniform(-100.0f, 100.0f);
      cosine.push_back(std::cos(angle));
      sine.push_back(std::sin(angle));
    }
    page_count += s.tokens / s.page_rows;
    std::vector<int> rows = random.permutation(page_count * s.page_rows);
    for (const int end : {s.page_rows - 1, 0})
      std::swap(rows[end != 0], *std::find(rows.begin(), rows.end(), end));
    for (int t = 0; t < s.tokens; ++t)
      places.push_back({rows[t] / s.page_rows, rows[t] % s.page_rows, t % 17 - 1,
                        t % 2 ? random.bits() : static_cast<uint64_t>(t)});
    for (kernels::ChaChaKey& key : keys.keys)
      for (uint32_t& word : key.words)
        word = static_cast<uint32_t>(random.bits());
  }

  // The stride is not the page's size, so that a page has a neighbour that is not its own.
  size_t page_stride() const { return shape.layout().page_bytes() + 64; }

  // On the device, the same in every order of its threads.
  KvStored store() const {
    const size_t q_bytes = q.size() * sizeof(float);
    const std::vector<uint8_t> bytes = in_every_order([&] {
      const DeviceArray<float> dq(q), dk(k), dv(v), dq_norm(q_norm), dk_norm(k_norm), dcos(cosine),
          dsin(sine);
      const DeviceArray<uint8_t> memory(page_stride() * page_count, Writer::kKernel);
      std::fill_n(memory.data(), memory.size(), kPagePoison);
      const DeviceArray<cuda::KvPlace> table(places.size());
      for (size_t t = 0; t < places.size(); ++t)
        table.data()[t] = {memory.data() + page_stride() * places[t].page, places[t].seq,
                           places[t].row, places[t].key};
      const cuda::StoreKvJob job{shape.tokens,
                                 shape.n_heads(),
                                 shape.layer,
                                 shape.pages(),
                                 dq.data(),
                                 dk.data(),
                                 dv.data(),
                                 q_norm.empty() ? nullptr : dq_norm.data(),
                                 k_norm.empty() ? nullptr : dk_norm.data(),
                                 eps,
                                 dcos.data(),
                                 dsin.data(),
                                 table_width,
                                 table.data()};
      CHECK_EQ(cuda::store_kv(job, &keys, nullptr), cudaSuccess);
      CHECK(same_bits(dk.values(), k));
      CHECK(same_bits(dv.values(), v));
      std::vector<uint8_t> out(q_bytes);
      std::memcpy(out.data(), dq.data(), q_bytes);
      out.insert(out.end(), memory.data(), memory.data() + memory.size());
      return out;
    });
    KvStored out{std::vector<float>(q.size()), {bytes.begin() + q_bytes, bytes.end()}};
    std::memcpy(out.q.data(), bytes.data(), q_bytes);
    return out;
  }

  // The same by the reference level, the CPU's page layout and the host's cipher.
  KvStored expected() const {
    const kernels::Table& cpu = kernels::reference();
    const PageLayout layout = shape.layout();
    const int dim = shape.dim, half = dim / 2;
    KvStored out{q, std::vector<uint8_t>(page_stride() * page_count, kPagePoison)};
    std::vector<float> keys_in = k;
    const auto finish = [&](float* x, const std::vector<float>& norm, int token, int head) {
      if (!norm.empty())
        cpu.head_rms_norm(x, norm.data() + static_cast<size_t>(head) * dim, dim, eps);
      const size_t at = static_cast<size_t>(token) * table_width +
                        (shape.table_per_head ? static_cast<size_t>(head) * half : 0);
      cpu.rope(x, cosine.data() + at, sine.data() + at, half);
    };
    for (int t = 0; t < shape.tokens; ++t) {
      for (int h = 0; h < shape.n_heads(); ++h)
        finish(out.q.data() + (static_cast<size_t>(t) * shape.n_heads() + h) * dim, q_norm, t,
               h / shape.group);
      uint8_t* page = out.pages.data() + page_stride() * places[t].page;
      std::memcpy(page + 64 + 8 * places[t].row, &places[t].seq, 8);
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        const size_t from = (static_cast<size_t>(t) * shape.n_kv_heads + h) * dim;
        finish(keys_in.data() + from, k_norm, t, h);
        const kernels::RowRecord at = record(out.pages, t, h);
        float scales[2] = {encode(keys_in.data() + from, at.k), encode(v.data() + from, at.v)};
        if (layout.has_scales())
          std::memcpy(at.scales, scales, 8);
        if (places[t].key >= 0)
          kernels::chacha_xor_row(keys.keys[places[t].key], row_id(t, h), at, layout.row_bytes());
      }
    }
    return out;
  }

  kernels::RowId row_id(int token, int head) const {
    return {places[token].seq, static_cast<uint16_t>(shape.layer), static_cast<uint16_t>(head)};
  }
  // Where a token's record stands in such pages.
  kernels::RowRecord record(std::vector<uint8_t>& pages, int token, int head) const {
    const PageLayout layout = shape.layout();
    const Place& place = places[token];
    uint8_t* at = pages.data() + page_stride() * place.page + layout.head_offset(shape.layer, head);
    return {at + place.row * layout.row_bytes(),
            at + layout.tile_bytes() + place.row * layout.row_bytes(),
            layout.has_scales() ? at + 2 * layout.tile_bytes() + 8 * place.row : nullptr};
  }

private:
  float encode(const float* x, uint8_t* out) const {
    const kernels::Table& cpu = kernels::reference();
    std::vector<uint8_t> room(2 * static_cast<size_t>(shape.dim));
    float scale = 0.0f;
    if (shape.type == KvType::kInt8)
      scale = cpu.quantize_row_i8(x, shape.dim, reinterpret_cast<int8_t*>(room.data()));
    else if (shape.type == KvType::kInt4)
      scale = cpu.quantize_row_i4(x, shape.dim, room.data());
    else
      cpu.to_f16(x, shape.dim, reinterpret_cast<uint16_t*>(room.data()));
    std::memcpy(out, room.data(), shape.layout().row_bytes());
    return scale;
  }
};

} // namespace ptmo::test
