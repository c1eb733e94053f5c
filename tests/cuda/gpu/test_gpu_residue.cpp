// What a thief of a GPU's memory finds of a session's K and V: while it runs, after it closed, and
// in the shared memory that its last kernel left.
//
// Each search has a control that must find what it looks for; where the device itself clears memory
// between owners, the control cannot, and the case is skipped as saying nothing.
#include "check.h"
#include "device_model.h"
#include "device_scan.h"

namespace ptmo::test {
namespace {

const TinyModel& model() {
  static const TinyModel of = integer_model(91, llama_config(64));
  return of;
}

// A session that has read the tokens: a prompt, then one by one.
std::unique_ptr<KvSession> run(Device& device, bool sealed) {
  auto session = device.open(sealed);
  const std::vector<int32_t> tokens = tokens_of(7, kTokens);
  const std::vector<int32_t> prompt(tokens.begin(), tokens.end() - 3);
  device.feed(*session, prompt, kTokens);
  device.feed(*session, {tokens.end() - 3, tokens.end()}, 1);
  return session;
}

// The bytes of a session's pages, headers and numbers apart.
std::vector<std::vector<uint8_t>> rows(const cuda::DevicePages& pages) {
  const PageLayout& layout = pages.layout();
  std::vector<std::vector<uint8_t>> out;
  for (int page = 0; page * layout.rows < kTokens; ++page) {
    out.emplace_back(layout.page_bytes() - layout.data_offset());
    pages.read(page, layout.data_offset(), out.back().size(), out.back().data());
  }
  return out;
}

// The K and V of a session in the clear, which a sealed one has too; no trace of it is left.
Needles plain_rows(KvType type) {
  Needles needles;
  {
    Device device(model(), type);
    const auto session = run(device, false);
    for (const std::vector<uint8_t>& page : rows(device.pages))
      needles.add(page.data(), page.size());
  }
  RestOfMemory().fill(0xff);
  CHECK(needles.size() > 500);
  return needles;
}

void name(KvType type) {
  poison_allocations(false);
  set_context("type ", static_cast<int>(type));
}

} // namespace

TEST(no_plain_row_stands_in_any_allocation_while_a_sealed_session_is_open) {
  for (const KvType type : kTypes) {
    name(type);
    const Needles needles = plain_rows(type);
    Device device(model(), type);
    const auto sealed = run(device, true);
    CHECK_EQ(hits_in_allocations(needles), size_t{0});
    Device open(model(), type); // the control
    const auto plain = run(open, false);
    CHECK(hits_in_allocations(needles) >= needles.size());
  }
}

TEST(no_plain_row_is_left_when_a_sealed_session_and_its_engine_are_gone) {
  for (const KvType type : kTypes) {
    name(type);
    const Needles needles = plain_rows(type);
    {
      Device device(model(), type);
      run(device, true).reset();
      CHECK_EQ(hits_in_allocations(needles), size_t{0});
    }
    const RestOfMemory rest;
    rest.print_share();
    CHECK(rest.bytes() > 0);
    CHECK_EQ(rest.hits(needles), size_t{0});
  }
}

// Rows in the clear are zeroed as well when their memory is given back.
TEST(no_plain_row_is_left_of_a_closed_session_in_the_clear) {
  for (const KvType type : kTypes) {
    name(type);
    const Needles needles = plain_rows(type);
    {
      Device device(model(), type);
      run(device, false).reset();
    }
    const RestOfMemory rest;
    rest.print_share();
    CHECK_EQ(rest.hits(needles), size_t{0});
  }
}

// The control of the two above: the same rows in memory that was given back and not wiped.
TEST(rows_that_were_not_wiped_are_found_in_freed_memory) {
  name(KvType::kInt8);
  const Needles needles = plain_rows(KvType::kInt8);
  {
    std::vector<void*> copies; // no DeviceMemory, which wipes
    Device device(model(), KvType::kInt8);
    const auto session = run(device, false);
    for (const std::vector<uint8_t>& page : rows(device.pages)) {
      void* copy = nullptr;
      check_device(cudaMalloc(&copy, page.size()), "a copy of a page");
      check_device(cudaMemcpy(copy, page.data(), page.size(), cudaMemcpyHostToDevice), "a copy");
      copies.push_back(copy);
    }
    for (void* copy : copies)
      check_device(cudaFree(copy), "giving it back");
  }
  if (RestOfMemory().hits(needles) == 0)
    skip("this device clears memory between its owners: the searches of freed memory say nothing");
}

TEST(no_plain_row_is_left_in_shared_memory_by_the_last_kernel) {
  for (const KvType type : kTypes) {
    name(type);
    const Needles needles = plain_rows(type);
    fill_shared_memory(needles); // the control
    if (hits_in_shared_memory(needles) == 0)
      skip("this device clears shared memory between kernels: the search says nothing");
    Needles others; // over the control's
    const std::vector<uint8_t> filler = {1, 2, 3, 4, 5, 6, 7, 8};
    others.add(filler.data(), filler.size());
    fill_shared_memory(others);
    if (hits_in_shared_memory(needles) != 0)
      skip("not all shared memory could be overwritten: the search says nothing");
    Device device(model(), type);
    const auto session = run(device, true);
    CHECK_EQ(hits_in_shared_memory(needles), size_t{0});
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
