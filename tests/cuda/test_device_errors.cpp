// What a device refuses, and what a pass that fails leaves of its sessions: all that was there
// before, and no more.
#include "device_model.h"
#include "device_under_test.h"

#include <memory>
#include <stdexcept>

#include <sys/wait.h>
#include <unistd.h>

namespace ptmo::test {
namespace {

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stopped by the hook") {}
};

std::vector<uint8_t> page_memory(const Device& device) {
  return read_block({device.pages.device_page(0), device.pages.layout().page_bytes() * 20});
}

struct Refusals {
  TinyModel model = integer_model(501, llama_config(16));
  Device device{model, KvType::kInt8, 8};
  std::vector<float> out = std::vector<float>(400 * kVocab);

  void forward(KvSession& session, const std::vector<int32_t>& tokens) {
    const Sequence sequence{&session, tokens.data(), static_cast<int>(tokens.size()), Logits::kLast,
                            out.data()};
    device.decoder.forward(&sequence, 1, {});
  }
};

} // namespace

TEST(a_hook_that_throws_takes_every_session_back_and_its_rows_are_zeroed) {
  const TinyModel model = integer_model(502, llama_config(16));
  for (const int stop_at : {1, 2, 3, 6}) { // calls: two layers of each of three chunks
    Device device(model, KvType::kInt8, 8);
    std::vector<std::unique_ptr<KvSession>> sessions, calm;
    const int before[] = {0, 5, 16}, more[] = {9, 12, 1};
    std::vector<std::vector<int32_t>> tokens;
    std::vector<Sequence> batch, same;
    std::vector<float> out(3 * kVocab), want(3 * kVocab), buffer(8 * 64);
    for (size_t i = 0; i < 3; ++i) {
      sessions.push_back(device.open(i != 1));
      calm.push_back(device.open(true));
      if (before[i] > 0)
        for (KvSession* session : {sessions[i].get(), calm[i].get()})
          device.feed(*session, tokens_of(static_cast<int>(i), before[i]), 16);
      tokens.push_back(tokens_of(static_cast<int>(7 + i), more[i]));
    }
    for (size_t i = 0; i < 3; ++i) {
      batch.push_back(
          {sessions[i].get(), tokens[i].data(), more[i], Logits::kLast, out.data() + i * kVocab});
      same.push_back(
          {calm[i].get(), tokens[i].data(), more[i], Logits::kLast, want.data() + i * kVocab});
    }
    const std::vector<uint8_t> pages = page_memory(device);
    int calls = 0;
    const auto hook = [&](int, int) {
      if (++calls == stop_at)
        throw Stop();
    };
    set_context("stopped at ", stop_at);
    CHECK_THROWS(device.decoder.forward(batch.data(), 3, {buffer.data(), 8, hook}), Stop, "hook");
    CHECK_EQ(calls, stop_at);
    for (size_t i = 0; i < 3; ++i)
      CHECK_EQ(sessions[i]->length(), before[i]);
    CHECK(same_bits(page_memory(device), pages));
    // They go on as if the call had not been.
    device.decoder.forward(batch.data(), 3, {});
    device.decoder.forward(same.data(), 3, {});
    CHECK(same_bits(out, want));
  }
}

TEST(tokens_and_sessions_that_do_not_fit_are_refused) {
  Refusals r;
  const auto session = r.device.open(true);
  r.forward(*session, tokens_of(1, 3));
  const auto refuses = [&](KvSession& of, const std::vector<int32_t>& tokens, const char* why) {
    const std::vector<uint8_t> pages = page_memory(r.device);
    const int length = of.closed() ? 0 : of.length();
    CHECK_THROWS(r.forward(of, tokens), std::invalid_argument, why);
    CHECK_EQ(of.length(), length);
    CHECK(same_bits(page_memory(r.device), pages));
  };
  refuses(*session, tokens_of(1, 298), "3 + 298 tokens exceed the context of 300");
  refuses(*session, {}, "no tokens");
  refuses(*session, {1, 50}, "token id 50 is not in 0..49");
  refuses(*session, {-1}, "token id -1");
  PageArena host(r.model.layout(KvType::kInt8), 4);
  KvSession elsewhere(host, 90);
  refuses(elsewhere, {1}, "not on the decoder's device");
  cuda::DevicePages other(r.model.layout(KvType::kInt8), 4);
  KvSession on_other(other, 91);
  refuses(on_other, {1}, "not on the decoder's device");
  cuda::DevicePages halves(r.model.layout(KvType::kF16), 4);
  KvSession of_other_type(halves, 92);
  refuses(of_other_type, {1}, "page layout is not the decoder's");
  const auto closed = r.device.open(true);
  closed->close();
  refuses(*closed, {1}, "the session is closed");
  const int32_t token = 1;
  const Sequence twice[] = {{session.get(), &token, 1, Logits::kLast, r.out.data()},
                            {session.get(), &token, 1, Logits::kLast, r.out.data()}};
  CHECK_THROWS(r.device.decoder.forward(twice, 2, {}), std::invalid_argument, "twice");
  CHECK_THROWS(r.device.decoder.forward(twice, 0, {}), std::invalid_argument, "no sequences");
  float small[64];
  CHECK_THROWS(r.device.decoder.forward(twice, 1, {small, 0, {}}), std::invalid_argument,
               "the attention buffer holds 0 rows, a chunk has 1");
}

TEST(pages_that_run_out_in_the_middle_leave_every_session_as_it_was) {
  Refusals r; // 20 pages of 16 rows
  const auto first = r.device.open(true), second = r.device.open(false);
  r.forward(*first, tokens_of(2, 20));
  const std::vector<uint8_t> pages = page_memory(r.device);
  const std::vector<int32_t> tokens = tokens_of(3, 170);
  const Sequence batch[] = {{first.get(), tokens.data(), 170, Logits::kLast, r.out.data()},
                            {second.get(), tokens.data(), 170, Logits::kLast, r.out.data()}};
  CHECK_THROWS(r.device.decoder.forward(batch, 2, {}), std::runtime_error, "page");
  CHECK_EQ(first->length(), 20);
  CHECK_EQ(second->length(), 0);
  CHECK(same_bits(page_memory(r.device), pages));
}

TEST(a_device_that_fails_to_zero_pages_gives_none_out_again_and_ends_nothing_else) {
  Refusals r;
  auto session = r.device.open(true), fork = session->fork(77), other = r.device.open(false);
  r.forward(*session, tokens_of(2, 20));
  r.forward(*other, tokens_of(2, 5));
  fail_after(DeviceCall::kMemset, 0);
  session->close();
  CHECK(session->closed());
  session->close();
  session.reset();
  fork.reset();
  other->truncate(3);
  CHECK_EQ(other->length(), 3);
  fail_after(DeviceCall::kMemset, -1);
  CHECK_THROWS(r.forward(*other, {1}), std::runtime_error,
               "failed at zeroing a page: invalid argument; its KV cache is lost");
  CHECK_EQ(other->length(), 3);
  const auto late = r.device.open(false);
  CHECK_THROWS(late->append(1), std::runtime_error, "KV cache is lost");
}

TEST(a_device_that_fails_in_the_middle_of_a_pass_takes_no_session_along) {
  // Copies: a header for each page appended to, the parcel, logits.
  for (int calls = 0; calls < 4; ++calls) {
    Refusals r;
    const auto first = r.device.open(true), second = r.device.open(false);
    r.forward(*first, tokens_of(2, 20));
    const std::vector<int32_t> tokens = tokens_of(3, 9);
    const Sequence batch[] = {{first.get(), tokens.data(), 9, Logits::kLast, r.out.data()},
                              {second.get(), tokens.data(), 3, Logits::kLast, r.out.data() + 50}};
    set_context("after ", calls, " copies");
    fail_after(DeviceCall::kCopy, calls);
    CHECK_THROWS(r.device.decoder.forward(batch, 2, {}), std::runtime_error, "the CUDA device");
    fail_after(DeviceCall::kCopy, -1);
    CHECK_EQ(first->length(), 20);
    CHECK_EQ(second->length(), 0);
  }
}

TEST(a_fork_ends_without_touching_the_device) {
  fail_after(DeviceCall::kMemset, -1); // not on a GPU
  auto r = std::make_unique<Refusals>();
  auto session = r->device.open(true);
  for (int i = 0; i < 3; ++i) // pages, buffers, a graph
    r->forward(*session, {i});
  const pid_t child = fork();
  if (child == 0) {
    for (const DeviceCall call : {DeviceCall::kMemset, DeviceCall::kCopy})
      fail_after(call, 0); // as CUDA does in a fork
    bool refused = false;
    try {
      r->forward(*session, {4});
    } catch (const std::runtime_error&) {
      refused = true;
    }
    session.reset();
    r.reset();
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
  r->forward(*session, {4});
  CHECK_EQ(session->length(), 4);
}

TEST(weights_and_caches_without_a_kernel_are_refused) {
  const TinyModel model(503, 16);
  cuda::DevicePages pages(model.layout(KvType::kInt8), 2), floats(model.layout(KvType::kF32), 2);
  cuda::DeviceDecoder decoder(model.config, pages, 8);
  cuda::WeightsOnDevice& weights = decoder.weights();
  for (const WeightType type : {WeightType::kF16, WeightType::kF32})
    CHECK_THROWS(weights.prepare("layers.0.up", type, 96, 64, 0), std::invalid_argument,
                 "layers.0.up is not quantised: a CUDA device needs INT4 or INT8 weights");
  CHECK_THROWS(weights.prepare("layers.0.up", WeightType::kInt8, 95, 64, 32), std::invalid_argument,
               "layers.0.up");
  CHECK_THROWS(weights.prepare("layers.0.norm", WeightType::kInt8, 96, 64, 32),
               std::invalid_argument, "layers.0.norm is not a matrix");
  CHECK_THROWS(weights.prepare("layers.2.up", WeightType::kInt8, 96, 64, 32), std::invalid_argument,
               "layer");
  CHECK_THROWS(weights.set_vector("layers.0.up", {1.0f}), std::invalid_argument, "not a vector");
  KvSession session(pages, 1);
  const int32_t token = 1;
  std::vector<float> out(kVocab);
  const Sequence sequence{&session, &token, 1, Logits::kLast, out.data()};
  CHECK_THROWS(decoder.forward(&sequence, 1, {}), std::invalid_argument, "was not set");
  CHECK_EQ(session.length(), 0);

  CHECK_THROWS(cuda::DeviceDecoder(model.config, floats, 8), std::invalid_argument,
               "a CUDA device has no fp32 cache");
  CHECK_THROWS(cuda::DeviceDecoder(llama_config(32), pages, 8), std::invalid_argument,
               "page layout is not this model's");
  for (const int chunk : {0, 4097})
    CHECK_THROWS(cuda::DeviceDecoder(model.config, pages, chunk), std::invalid_argument,
                 "is not in 1..4096");
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
