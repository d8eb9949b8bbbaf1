// The part of the C ABI that encodes and decodes without a client.
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/codec.h"
#include "services/worker/c_call.h"
#include "services/worker/kvist.h"
#include "services/worker/profile_c.h"

namespace {

using kvist::CopyText;
using kvist::Guard;
using kvist::Require;
using kvist::Text;

constexpr float kExactDb = 65535.0f / 256;  // FORMAT.md, the header's worst SQNR

// A caller's struct may be one of an older header, shorter than ours: what it lacks has its default.
template <typename Options>
absl::StatusOr<Options> ReadSized(const Options* given, size_t first_bytes, const char* name) {
  Options options{};
  if (given == nullptr) return options;
  if (given->size_bytes < first_bytes || given->size_bytes > sizeof(Options)) {
    return absl::InvalidArgumentError(absl::StrCat("options.size_bytes is ", given->size_bytes, ": set it to sizeof(",
                                                   name, "), which is at most ", sizeof(Options), " in this library"));
  }
  std::memcpy(&options, given, given->size_bytes);
  return options;
}

// What an encode is asked to do.
struct Wanted {
  kvist::BlockShape shape;
  kvist::BlockIdentity identity;
  kvist::EncodeOptions options;
  std::vector<uint8_t> tile_bits;                     // what the options look at
  std::shared_ptr<const kvist::OpenProfile> profile;  // if there is one
};

absl::StatusOr<Wanted> ReadWanted(const kvist_shape& shape, const kvist_encode_options* given) {
  const absl::StatusOr<kvist_encode_options> options = ReadSized(
      given, offsetof(kvist_encode_options, namespace_digest) + sizeof(const uint8_t*), "kvist_encode_options");
  if (!options.ok()) return options.status();
  std::vector<std::string> problems;
  Wanted wanted;
  wanted.shape = {shape.layers, shape.heads, shape.tokens, shape.head_dim, kvist::Dtype::kBf16};
  const absl::StatusOr<kvist::Dtype> dtype = kvist::ParseDtype(Text(shape.dtype));
  if (dtype.ok()) wanted.shape.dtype = *dtype;
  if (!dtype.ok()) problems.push_back(std::string(dtype.status().message()));
  if (const absl::Status valid = kvist::ValidateShape(wanted.shape); !valid.ok()) {
    problems.push_back(std::string(valid.message()));
  }
  if (const std::string name = Text(options->codec); !name.empty()) {
    const absl::StatusOr<kvist::Codec> codec = kvist::ParseCodec(name);
    if (codec.ok()) wanted.options.codec = *codec;
    if (!codec.ok()) problems.push_back(std::string(codec.status().message()));
  }
  wanted.options.floor_db = options->floor_db;
  wanted.options.key_bits = static_cast<int>(std::min<uint32_t>(options->key_bits, 1000));
  wanted.options.value_bits = static_cast<int>(std::min<uint32_t>(options->value_bits, 1000));
  wanted.options.exact_heads = options->exact_heads;
  if (problems.empty()) wanted.tile_bits = kvist::ReadTileBits(options->tile_bits, shape.layers, shape.heads);
  wanted.options.tile_bits = wanted.tile_bits;
  wanted.identity.first_position = options->first_position;
  if (options->key != nullptr) std::copy_n(options->key, 32, wanted.identity.key.begin());
  if (options->namespace_digest != nullptr) {
    std::copy_n(options->namespace_digest, 16, wanted.identity.namespace_digest.begin());
  }
  if (options->profile != nullptr) {
    wanted.profile = options->profile->open;
    wanted.identity.profile_digest = wanted.profile->digest();
  }
  if (problems.empty()) return wanted;
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

absl::StatusOr<kvist::BlockView> View(const uint8_t* block, size_t n_bytes) {
  return kvist::BlockView::Parse(absl::MakeConstSpan(block, n_bytes));
}

void Describe(const kvist::BlockView& view, kvist_block_description* out) {
  *out = {};
  CopyText(std::string(kvist::CodecName(view.codec())), out->codec);
  CopyText(std::string(kvist::DtypeName(view.shape().dtype)), out->dtype);
  out->codec_version = static_cast<uint32_t>(view.codec_version());
  out->layers = view.shape().layers;
  out->heads = view.shape().heads;
  out->tokens = view.shape().tokens;
  out->head_dim = view.shape().head_dim;
  out->first_position = view.identity().first_position;
  out->precision = static_cast<uint32_t>(std::max(0, view.MaxPrecision()));
  out->planes = static_cast<uint32_t>(view.planes());
  out->planes_present = static_cast<uint32_t>(view.PlanesPresent());
  out->raised_tiles = view.raised_tiles();
  out->floor_db = view.floor_db();
  const bool exact = view.min_sqnr_db() >= kExactDb;
  out->min_sqnr_db = exact ? std::numeric_limits<float>::infinity() : view.min_sqnr_db();
  out->block_bytes = view.block_bytes();
  std::copy(view.identity().key.begin(), view.identity().key.end(), out->key);
  std::copy(view.identity().namespace_digest.begin(), view.identity().namespace_digest.end(), out->namespace_digest);
  std::copy(view.identity().profile_digest.begin(), view.identity().profile_digest.end(), out->profile_digest);
}

}  // namespace

extern "C" {

kvist_code kvist_encode_bound(const kvist_shape* shape, const kvist_encode_options* options, size_t* bound_bytes,
                              kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"shape", shape}, {"bound_bytes", bound_bytes}}); !given.ok()) return given;
    const absl::StatusOr<Wanted> wanted = ReadWanted(*shape, options);
    if (!wanted.ok()) return wanted.status();
    *bound_bytes = kvist::MaxBlockBytes(wanted->shape, wanted->options.codec);
    return absl::OkStatus();
  });
}

kvist_code kvist_encode(const kvist_shape* shape, const kvist_encode_options* options, const uint16_t* kv,
                        uint8_t* block, size_t capacity, size_t* block_bytes, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"shape", shape}, {"kv", kv}, {"block", block}, {"block_bytes", block_bytes}});
        !given.ok()) {
      return given;
    }
    absl::StatusOr<Wanted> wanted = ReadWanted(*shape, options);
    if (!wanted.ok()) return wanted.status();
    if (wanted->profile != nullptr) {
      const absl::StatusOr<const kvist::Profile*> profile = wanted->profile->ForEncoding();
      if (!profile.ok()) return profile.status();
      wanted->options.profile = *profile;
    }
    const kvist::ConstPages pages = kvist::ContiguousPages(kv, wanted->shape, wanted->shape.tokens);
    const absl::StatusOr<size_t> written =
        kvist::Encode(wanted->identity, wanted->shape, pages, wanted->options, absl::MakeSpan(block, capacity));
    if (!written.ok()) return written.status();
    *block_bytes = *written;
    return absl::OkStatus();
  });
}

kvist_code kvist_describe(const uint8_t* block, size_t n_bytes, kvist_block_description* description,
                          kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"block", block}, {"description", description}}); !given.ok()) return given;
    const absl::StatusOr<kvist::BlockView> view = View(block, n_bytes);
    if (!view.ok()) return view.status();
    Describe(*view, description);
    return absl::OkStatus();
  });
}

kvist_code kvist_decode(const uint8_t* block, size_t n_bytes, const kvist_decode_options* options, uint16_t* kv,
                        size_t n_values, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"block", block}, {"kv", kv}}); !given.ok()) return given;
    const absl::StatusOr<kvist_decode_options> asked =
        ReadSized(options, offsetof(kvist_decode_options, precision) + sizeof(uint32_t), "kvist_decode_options");
    if (!asked.ok()) return asked.status();
    const absl::StatusOr<kvist::BlockView> view = View(block, n_bytes);
    if (!view.ok()) return view.status();
    const kvist::BlockShape& shape = view->shape();
    if (n_values != shape.Elements()) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv holds ", n_values, " values; the block has ", shape.Elements(), ": give exactly those"));
    }
    const int precision = static_cast<int>(std::min<uint32_t>(asked->precision, 1000));
    if (absl::Status good = view->Verify(0, shape.layers, precision); !good.ok()) return good;
    return kvist::Decode(*view, {0, shape.layers}, precision, kvist::Basis::kOriginal,
                         kvist::ContiguousPages(kv, shape, shape.tokens),
                         asked->profile == nullptr ? nullptr : &asked->profile->open->ForDecoding());
  });
}

}  // extern "C"
