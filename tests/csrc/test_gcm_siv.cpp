// AES-256-GCM-SIV against every AES-256 vector of RFC 8452 (C.2, C.3), and the hardware path and
// any cutting into pieces against the portable path.
#include "check.h"
#include "hex.h"
#include "samples.h"

#include "crypto/aes_block.h"
#include "crypto/gcm_siv.h"

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

struct Message {
  const char *plaintext, *aad, *result;
};

struct Vectors {
  const char *key, *nonce;
  std::vector<Message> messages;
};

#define B1 "01000000000000000000000000000000"
#define B2 "02000000000000000000000000000000"
#define B3 "03000000000000000000000000000000"
#define B4 "04000000000000000000000000000000"
#define B5 "05000000000000000000000000000000"

const Vectors kVectors[] = {
    {"0100000000000000000000000000000000000000000000000000000000000000",
     "030000000000000000000000",
     {{"", "", "07f5f4169bbf55a8400cd47ea6fd400f"},
      {"0100000000000000", "", "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"},
      {"010000000000000000000000", "", "9aab2aeb3faa0a34aea8e2b18ca50da9ae6559e48fd10f6e5c9ca17e"},
      {B1, "", "85a01b63025ba19b7fd3ddfc033b3e76c9eac6fa700942702e90862383c6c366"},
      {B1 B2, "",
       "4a6a9db4c8c6549201b9edb53006cba821ec9cf850948a7c86c68ac7539d027f"
       "e819e63abcd020b006a976397632eb5d"},
      {B1 B2 B3, "",
       "c00d121893a9fa603f48ccc1ca3c57ce7499245ea0046db16c53c7c66fe717e3"
       "9cf6c748837b61f6ee3adcee17534ed5790bc96880a99ba804bd12c0e6a22cc4"},
      {B1 B2 B3 B4, "",
       "c2d5160a1f8683834910acdafc41fbb1632d4a353e8b905ec9a5499ac34f96c7"
       "e1049eb080883891a4db8caaa1f99dd004d80487540735234e3744512c6f90ce"
       "112864c269fc0d9d88c61fa47e39aa08"},
      {"0200000000000000", "01", "1de22967237a813291213f267e3b452f02d01ae33e4ec854"},
      {"020000000000000000000000", "01",
       "163d6f9cc1b346cd453a2e4cc1a4a19ae800941ccdc57cc8413c277f"},
      {B2, "01", "c91545823cc24f17dbb0e9e807d5ec17b292d28ff61189e8e49f3875ef91aff7"},
      {B2 B3, "01",
       "07dad364bfc2b9da89116d7bef6daaaf6f255510aa654f920ac81b94e8bad365"
       "aea1bad12702e1965604374aab96dbbc"},
      {B2 B3 B4, "01",
       "c67a1f0f567a5198aa1fcc8e3f21314336f7f51ca8b1af61feac35a86416fa47"
       "fbca3b5f749cdf564527f2314f42fe2503332742b228c647173616cfd44c54eb"},
      {B2 B3 B4 B5, "01",
       "67fd45e126bfb9a79930c43aad2d36967d3f0e4d217c1e551f59727870beefc9"
       "8cb933a8fce9de887b1e40799988db1fc3f91880ed405b2dd298318858467c89"
       "5bde0285037c5de81e5b570a049b62a0"},
      {"02000000", "010000000000000000000000", "22b3f4cd1835e517741dfddccfa07fa4661b74cf"},
      {"0300000000000000000000000000000004000000", "010000000000000000000000000000000200",
       "43dd0163cdb48f9fe3212bf61b201976067f342bb879ad976d8242acc188ab59cabfe307"},
      {"030000000000000000000000000000000400", "0100000000000000000000000000000002000000",
       "462401724b5ce6588d5a54aae5375513a075cfcdf5042112aa29685c912fc2056543"}}},
    {"e66021d5eb8e4f4066d4adb9c33560e4f46e44bb3da0015c94f7088736864200",
     "e0eaf5284d884a0e77d31646",
     {{"", "", "169fbb2fbf389a995f6390af22228a62"}}},
    {"bae8e37fc83441b16034566b7a806c46bb91c3c5aedb64a6c590bc84d1a5e269",
     "e4b47801afc0577e34699b9e",
     {{"671fdd", "4fbdc66f14", "0eaccb93da9bb81333aee0c785b240d319719d"}}},
    {"6545fc880c94a95198874296d5cc1fd161320b6920ce07787f86743b275d1ab3",
     "2f6d1f0434d8848c1177441f",
     {{"195495860f04", "6787f3ea22c127aaf195", "a254dad4f3f96b62b84dc40c84636a5ec12020ec8c2c"}}},
    {"d1894728b3fed1473c528b8426a582995929a1499e9ad8780c8d63d0ab4149c0",
     "9f572c614b4745914474e7c7",
     {{"c9882e5386fd9f92ec", "489c8fde2be2cf97e74e932d4ed87d",
       "0df9e308678244c44bc0fd3dc6628dfe55ebb0b9fb2295c8c2"}}},
    {"a44102952ef94b02b805249bac80e6f61455bfac8308a2d40d8c845117808235",
     "5c9e940fea2f582950a70d5a",
     {{"1db2316fd568378da107b52b", "0da55210cc1c1b0abde3b2f204d1e9f8b06bc47f",
       "8dbeb9f7255bf5769dd56692404099c2587f64979f21826706d497d5"}}},
    {"9745b3d1ae06556fb6aa7890bebc18fe6b3db4da3d57aa94842b9803a96e07fb",
     "6de71860f762ebfbd08284e4",
     {{"21702de0de18baa9c9596291b08466", "f37de21c7ff901cfe8a69615a93fdf7a98cad481796245709f",
       "793576dfa5c0f88729a7ed3c2f1bffb3080d28f6ebb5d3648ce97bd5ba67fd"}}},
    {"b18853f68d833640e42a3c02c25b64869e146d7b233987bddfc240871d7576f7",
     "028ec6eb5ea7e298342a94d4",
     {{"b202b370ef9768ec6561c4fe6b7e7296fa85",
       "9c2159058b1f0fe91433a5bdc20e214eab7fecef4454a10ef0657df21ac7",
       "857e16a64915a787637687db4a9519635cdd454fc2a154fea91f8363a39fec7d0a49"}}},
    {"3c535de192eaed3822a2fbbe2ca9dfc88255e14a661b8aa82cc54236093bbc23",
     "688089e55540db1872504e1c",
     {{"ced532ce4159b035277d4dfbb7db62968b13cd4eec",
       "734320ccc9d9bbbb19cb81b2af4ecbc3e72834321f7aa0f70b7282b4f33df23f167541",
       "626660c26ea6612fb17ad91e8e767639edd6c9faee9d6c7029675b89eaf4ba1ded1a286594"}}},
    // C.3: the counter wraps.
    {"0000000000000000000000000000000000000000000000000000000000000000",
     "000000000000000000000000",
     {{"000000000000000000000000000000004db923dc793ee6497c76dcc03a98e108", "",
       "f3f80f2cf0cb2dd9c5984fcda908456cc537703b5ba70324a6793a7bf218d3ea"
       "ffffffff000000000000000000000000"},
      {"eb3640277c7ffd1303c7a542d02d3e4c0000000000000000", "",
       "18ce4f0b8cb4d0cac65fea8f79257b20888e53e72299e56dffffffff000000000000000000000000"}}},
};

std::vector<const GcmSivKernels*> paths() {
  std::vector<const GcmSivKernels*> out = {&gcm_siv_portable()};
  if (gcm_siv_x86() != nullptr)
    out.push_back(gcm_siv_x86());
  return out;
}

// Ciphertext and tag, with the plaintext passed in pieces of at most `piece` bytes.
Bytes sealed(const GcmSivKernels& kernels, const Bytes& key, const Bytes& nonce, const Bytes& aad,
             const Bytes& plain, size_t piece = SIZE_MAX) {
  Aes256RoundKeys keys;
  aes_expand(key.data(), 32, keys.bytes);
  GcmSivMessageKeys message_keys;
  Bytes out(plain.size() + 16);
  {
    GcmSivMessage m(kernels, keys, nonce.data(), &message_keys);
    uint8_t* tag = out.data() + plain.size();
    m.begin(aad.data(), aad.size());
    for (size_t at = 0; at < plain.size(); at += std::min(piece, plain.size() - at))
      m.authenticate(plain.data() + at, std::min(piece, plain.size() - at));
    m.tag(tag);
    m.start(tag);
    for (size_t at = 0; at < plain.size(); at += std::min(piece, plain.size() - at))
      m.crypt(plain.data() + at, std::min(piece, plain.size() - at), out.data() + at);
  }
  const Bytes zeros(sizeof(message_keys), 0);
  CHECK(std::memcmp(&message_keys, zeros.data(), zeros.size()) == 0); // wiped with the message
  return out;
}

Bytes random_bytes(Random& random, size_t n) {
  Bytes out(n);
  for (uint8_t& b : out)
    b = static_cast<uint8_t>(random.bits());
  return out;
}

} // namespace

TEST(aes_256_is_that_of_fips_197) {
  uint8_t keys[240], block[16];
  aes_expand(hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").data(), 32,
             keys);
  CHECK_EQ(text({keys + 32, keys + 64}), // A.3, w8 .. w15
           std::string("9ba354118e6925afa51a8b5f2067fcdea8b09c1a93d194cdbe49846eb75d5b9a"));
  CHECK_EQ(text({keys + 224, keys + 240}), std::string("fe4890d1e6188d0b046df344706c631e"));
  aes_expand(hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").data(), 32,
             keys);
  std::memcpy(block, hex("00112233445566778899aabbccddeeff").data(), 16);
  aes_encrypt_block(keys, 14, block);
  CHECK_EQ(text({block, block + 16}), std::string("8ea2b7ca516745bfeafc49904b496089")); // C.3
}

TEST(aes_128_by_the_same_code_is_that_of_fips_197) {
  uint8_t keys[176], block[16];
  aes_expand(hex("000102030405060708090a0b0c0d0e0f").data(), 16, keys);
  std::memcpy(block, hex("00112233445566778899aabbccddeeff").data(), 16);
  aes_encrypt_block(keys, 10, block);
  CHECK_EQ(text({block, block + 16}), std::string("69c4e0d86a7b0430d8cdb78070b4c55a")); // C.1
}

TEST(polyval_is_that_of_rfc_8452_appendix_a) {
  const Bytes key = hex("25629347589242761d31f826ba4b757b");
  const Bytes blocks = hex("4f4f95668c83dfb6401762bb2d01a262d1a24ddd2721d006bbe45f20d3c9f362");
  for (const GcmSivKernels* path : paths()) {
    set_context(path->name);
    Bytes sum(16, 0);
    path->polyval(key.data(), sum.data(), blocks.data(), 2);
    CHECK_EQ(text(sum), std::string("f7a3b47b846119fae5b7866cf5e5b77e"));
  }
}

TEST(messages_are_sealed_as_in_rfc_8452_appendix_c) {
  for (const GcmSivKernels* path : paths()) {
    for (const Vectors& v : kVectors) {
      for (const Message& m : v.messages) {
        set_context(path->name, ", result ", m.result);
        CHECK_EQ(text(sealed(*path, hex(v.key), hex(v.nonce), hex(m.aad), hex(m.plaintext))),
                 std::string(m.result));
      }
    }
  }
}

TEST(any_cut_into_pieces_gives_the_same_message_on_every_path) {
  Random random(90);
  for (const size_t bytes : {0, 1, 15, 16, 17, 127, 128, 129, 144, 1000, 4352}) {
    const Bytes key = random_bytes(random, 32), nonce = random_bytes(random, 12);
    const Bytes aad = random_bytes(random, bytes % 50), plain = random_bytes(random, bytes);
    const Bytes want = sealed(gcm_siv_portable(), key, nonce, aad, plain);
    for (const GcmSivKernels* path : paths()) {
      for (const size_t piece :
           {size_t{1}, size_t{7}, size_t{16}, size_t{24}, size_t{136}, size_t{SIZE_MAX}}) {
        set_context(path->name, ", ", bytes, " bytes in pieces of ", piece);
        CHECK(same_bits(sealed(*path, key, nonce, aad, plain, piece), want));
      }
    }
  }
}

TEST(tags_compare_equal_only_when_every_bit_is) {
  Random random(91);
  const Bytes tag = random_bytes(random, 16);
  CHECK(same_tag(tag.data(), Bytes(tag).data()));
  for (size_t bit = 0; bit < 128; ++bit) {
    Bytes other = tag;
    other[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    CHECK(!same_tag(tag.data(), other.data()));
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
