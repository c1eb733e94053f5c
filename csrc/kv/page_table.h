// The layout of a KV page, and the arena the pages live in.
//
// page = header (64 bytes) | seq u64 [rows] | for each layer, for each KV head:
//        K codes [rows, head_dim] | V codes [rows, head_dim] | (INT8, INT4) scales f32 [rows, 2]
// all little-endian; K is stored after RoPE; integer value = code * scale, scales = (k, v) of a
// row. INT4: codes -7..7, a row of head_dim / 2 bytes; byte j holds the codes of elements j (low
// nibble) and j + head_dim / 2, plus 8. Every part starts at a multiple of 64 bytes when head_dim *
// rows is one of 64. In the clear: the header and the sequence numbers. Under `seal` all else is
// ciphertext.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptmo {

enum class KvType : int { kInt8 = 0, kF16 = 1, kF32 = 2, kInt4 = 3 };

struct PageHeader {
  static constexpr uint32_t kMagic = 0x4750564Bu; // "KVPG"
  static constexpr uint16_t kVersion = 2;
  uint32_t magic;
  uint16_t version;
  uint16_t rows_per_page;
  uint32_t page_id;
  uint32_t session; // one that uses the page; forks of it may use it too
  uint32_t epoch;
  uint32_t length; // rows in use, by any session
  uint32_t first_position;
  uint32_t family;      // the first session of a session and its forks
  uint64_t adapter_tag; // the adapter set under which the newest row was computed
  uint8_t zeros[24];
};
static_assert(sizeof(PageHeader) == 64);

struct PageLayout {
  int n_layers, n_kv_heads, head_dim, rows;
  KvType type;

  PageLayout(int n_layers, int n_kv_heads, int head_dim, int rows, KvType type);
  size_t element_bytes() const; // of a code alone; INT4 packs two of them into one
  size_t row_bytes() const {
    return static_cast<size_t>(head_dim) * element_bytes() / (type == KvType::kInt4 ? 2 : 1);
  }
  size_t tile_bytes() const { return row_bytes() * rows; } // K (or V) of one head
  bool has_scales() const { return type == KvType::kInt8 || type == KvType::kInt4; }
  size_t head_bytes() const { return 2 * tile_bytes() + (has_scales() ? 8u * rows : 0); }
  size_t data_offset() const { return sizeof(PageHeader) + 8u * rows; }
  // Offset of (layer, head)'s K tile; V follows at tile_bytes(), scales at 2 * tile_bytes().
  size_t head_offset(int layer, int head) const {
    return data_offset() + (static_cast<size_t>(layer) * n_kv_heads + head) * head_bytes();
  }
  // One token row's part of a head's block: the row at `offset + row * bytes`.
  struct Record {
    size_t offset, bytes;
  };
  // The records of a row in a head's block: K, V and, where the type has them, scales.
  std::vector<Record> records() const;
  size_t page_bytes() const; // a multiple of 64
  // Bytes of cache one token takes, headers apart.
  size_t bytes_per_token() const;
};

// The pages, and who uses them. A page may have several users (forks of one session); it is zeroed
// at once when the last of them frees it. Here they are a fixed range of this process's address
// space, touched as pages are used; `DevicePages` (csrc/cuda) keeps them in a device's memory.
class PageArena {
public:
  PageArena(const PageLayout& layout, int capacity_pages);
  virtual ~PageArena();
  PageArena(const PageArena&) = delete;
  PageArena& operator=(const PageArena&) = delete;

  const PageLayout& layout() const { return layout_; }
  // `count` zeroed pages with one user each, or std::runtime_error and none when so many are not
  // free.
  std::vector<int> allocate(size_t count);
  void share(int page); // one user more
  // One user less; zeroes the page when there is none left, and says whether it did.
  bool free(int page);
  int users(int page) const { return users_[static_cast<size_t>(page)]; }
  std::vector<int> pages_in_use() const; // ascending
  int capacity_pages() const { return static_cast<int>(users_.size()); }

  // What this process sees of a page: all of it, or of a page on a device a copy of what stands
  // there in the clear, the header and the sequence numbers.
  uint8_t* page(int index) const { return base_ + static_cast<size_t>(index) * stride_; }

  virtual bool on_device() const { return false; }
  // Where the page stands, in the address space that it is in.
  virtual uint64_t address(int page) const;
  // Whoever changed what `page()` shows of a page says so: where it stands it changes too, in order
  // with what follows. Of this, of wiping and of copying a device's failure is noted, and raised by
  // require_usable(): they serve to give pages up, and that must not throw.
  virtual void publish(int /*page*/) {}
  virtual void wipe(int page, size_t offset, size_t bytes);
  virtual void copy(int from, int to, size_t offset, size_t bytes);
  virtual void settle() {} // returns once all of that is done
  // Throws std::runtime_error where the pages are on a device that failed: what they hold, and
  // whether freed ones are zeroed, is unknown from then on.
  virtual void require_usable() const {}
  virtual void read(int page, size_t offset, size_t bytes, uint8_t* out) const;
  virtual void write(int page, size_t offset, size_t bytes, const uint8_t* in);

protected:
  // `visible`: bytes of a page that this process sees.
  PageArena(const PageLayout& layout, int capacity_pages, size_t visible);

private:
  PageLayout layout_;
  size_t stride_, mapped_;
  uint8_t* base_ = nullptr;
  std::vector<int> users_; // of each page
};

} // namespace ptmo
