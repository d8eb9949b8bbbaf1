// The C ABI over Client: checks arguments, translates, and lets no exception through.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cluster/static_file.h"
#include "services/transport/bearer_token.h"
#include "services/transport/miss_reason.h"
#include "services/transport/tls.h"
#include "services/transport/transport.h"
#include "services/version.h"
#include "services/worker/c_call.h"
#include "services/worker/client.h"
#include "services/worker/explain_json.h"
#include "services/worker/json_text.h"
#include "services/worker/kvist.h"
#include "services/worker/metrics.h"
#include "services/worker/node_json.h"
#include "services/worker/profile_c.h"

struct kvist_client {
  // In this order: matches release through the client, the client calls through the transport.
  std::unique_ptr<kvist::Transport> transport;
  std::unique_ptr<kvist::Client> client;
  std::mutex mutex;
  std::map<uint64_t, kvist::PrefixMatch> matches ABSL_GUARDED_BY(mutex);
  uint64_t last_match_id ABSL_GUARDED_BY(mutex) = 0;
};

namespace {

using kvist::CopyText;
using kvist::Guard;
using kvist::Report;
using kvist::Require;
using kvist::Text;

constexpr uint32_t kDefaultDeadlineMs = 5000, kDefaultLeaseMs = 5000, kDefaultThreads = 2;

// What `make` returns, into the caller's memory if it is large enough; its length, NUL included, in any case.
template <typename Make>
kvist_code GiveText(kvist_client* client, std::pair<const char*, bool> place, char* out, size_t capacity,
                    size_t* needed, kvist_error* error, Make make) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given = Require({{"client", client != nullptr}, place, {"needed", needed != nullptr}});
    if (!given.ok()) return given;
    const absl::StatusOr<std::string> text = make();
    if (!text.ok()) return text.status();
    kvist::GiveText(*text, out, capacity, needed);
    return absl::OkStatus();
  });
}

kvist::Namespace ReadNamespace(const kvist_namespace& ns, std::vector<std::string>* problems) {
  kvist::Namespace out;
  out.model = Text(ns.model);
  out.weights_digest = Text(ns.weights_digest);
  out.rope = Text(ns.rope);
  out.tenant_salt = Text(ns.tenant_salt);
  const absl::StatusOr<kvist::Dtype> dtype = kvist::ParseDtype(Text(ns.dtype));
  if (dtype.ok()) out.dtype = *dtype;
  if (!dtype.ok()) problems->push_back(std::string(dtype.status().message()));
  out.layers = ns.layers;
  out.heads = ns.heads;
  out.head_dim = ns.head_dim;
  out.tp_rank = ns.tp_rank;
  out.tp_size = ns.tp_size;
  out.pp_rank = ns.pp_rank;
  out.pp_size = ns.pp_size;
  out.tokens_per_block = ns.tokens_per_block;
  if (ns.profile_digest != nullptr)
    std::copy_n(ns.profile_digest, out.profile_digest.size(), out.profile_digest.begin());
  return out;
}

absl::StatusOr<kvist::ClientOptions> ReadOptions(const kvist_namespace& ns, const kvist_options& given) {
  std::vector<std::string> problems;
  kvist::ClientOptions options;
  options.ns = ReadNamespace(ns, &problems);
  if (const std::string name = Text(given.codec); !name.empty()) {
    const absl::StatusOr<kvist::Codec> codec = kvist::ParseCodec(name);
    if (codec.ok()) options.codec = *codec;
    if (!codec.ok()) problems.push_back(std::string(codec.status().message()));
  }
  if (given.profile != nullptr) options.profile = given.profile->open;
  options.floor_db = given.floor_db;
  options.min_precision = static_cast<int>(std::min<uint32_t>(given.min_precision, 1000));
  options.deadline = absl::Milliseconds(given.deadline_ms == 0 ? kDefaultDeadlineMs : given.deadline_ms);
  options.lease = absl::Milliseconds(given.lease_ms == 0 ? kDefaultLeaseMs : given.lease_ms);
  options.threads = static_cast<int>(std::min<uint32_t>(given.threads == 0 ? kDefaultThreads : given.threads, 100000));
  options.replicas = static_cast<int>(std::min<uint32_t>(given.replicas == 0 ? 1 : given.replicas, 1000));
  options.key_bits = static_cast<int>(std::min<uint32_t>(given.key_bits, 1000));
  options.value_bits = static_cast<int>(std::min<uint32_t>(given.value_bits, 1000));
  if (kvist::ValidateNamespace(options.ns).ok()) {  // else its sizes may say anything
    options.tile_bits = kvist::ReadTileBits(given.tile_bits, options.ns.layers, options.ns.heads);
  }
  options.exact_heads = given.exact_heads;
  options.seeds = absl::StrSplit(Text(given.seeds), ',', absl::SkipWhitespace());
  for (std::string& seed : options.seeds) seed = std::string(absl::StripAsciiWhitespace(seed));
  if (Text(given.cluster_file).empty() && options.seeds.empty()) {
    problems.push_back("cluster_file is missing, and so are seeds: one of them must lead to the cluster");
  } else if (!Text(given.cluster_file).empty() && problems.empty()) {
    absl::StatusOr<kvist::View> view =
        kvist::LoadView(given.cluster_file, options.runtime->Now() + options.deadline, options.runtime->clock());
    if (!view.ok()) return view.status();
    options.view = *std::move(view);
  }
  if (problems.empty()) return options;
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

// With what a client calls nodes.
struct Shown {
  std::shared_ptr<kvist::TlsIdentity> tls;    // null for plaintext
  std::shared_ptr<kvist::BearerToken> token;  // null for none
};

absl::Status CheckIdentity(const kvist_identity& given, const kvist::TlsOptions& tls) {
  if (given.size_bytes != sizeof(kvist_identity)) {
    return absl::InvalidArgumentError(
        absl::StrCat("identity.size_bytes is ", given.size_bytes, ", not ", sizeof(kvist_identity),
                     ": set it to sizeof(kvist_identity), with the kvist.h of this library"));
  }
  if (tls.ca_alone() && !Text(given.token_file).empty()) return absl::OkStatus();
  if (absl::Status complete = kvist::CheckAllOrNone(tls); !complete.ok()) return complete;
  if (tls.any() || tls.server_name.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("server_name is for TLS alone: give a certificate, its key and a CA, or remove it");
}

absl::StatusOr<Shown> Open(const kvist_identity* given) {
  Shown shown;
  if (given == nullptr) return shown;
  kvist::TlsOptions options;
  options.cert_file = Text(given->cert_file);
  options.key_file = Text(given->key_file);
  options.ca_file = Text(given->ca_file);
  options.server_name = Text(given->server_name);
  if (absl::Status right = CheckIdentity(*given, options); !right.ok()) return right;
  if (options.any()) {
    absl::StatusOr<std::shared_ptr<kvist::TlsIdentity>> tls = kvist::TlsIdentity::Load(options);
    if (!tls.ok()) return tls.status();
    shown.tls = *std::move(tls);
  }
  if (const std::string file = Text(given->token_file); !file.empty()) {
    absl::StatusOr<std::shared_ptr<kvist::BearerToken>> token = kvist::BearerToken::Load(file);
    if (!token.ok()) return token.status();
    shown.token = *std::move(token);
  }
  return shown;
}

std::vector<kvist::Key> KeysOf(const kvist_client& client, const uint32_t* tokens, size_t n_tokens) {
  return client.client->Keys(absl::MakeConstSpan(tokens, n_tokens));
}

absl::Status CheckCapacity(const kvist::Client& client, size_t blocks, size_t tokens_capacity) {
  const size_t tokens = blocks * client.ns().tokens_per_block;
  if (tokens <= tokens_capacity) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("kv holds ", tokens_capacity, " tokens; ", blocks, " blocks need ",
                                                 tokens, ": give a larger buffer"));
}

// Keeps a match until it is released or its leases have ended by themselves.
uint64_t Keep(kvist_client* client, kvist::PrefixMatch match) {
  std::lock_guard lock(client->mutex);
  const absl::Time now = kvist::RealRuntime()->Now();
  std::erase_if(client->matches, [now](const auto& kept) { return kept.second.lease_expiry() < now; });
  client->matches.emplace(++client->last_match_id, std::move(match));
  return client->last_match_id;
}

}  // namespace

extern "C" {

uint32_t kvist_abi_version(void) { return KVIST_ABI_VERSION; }

const char* kvist_version(void) { return kvist::kVersion; }

kvist_code kvist_client_create(const kvist_namespace* ns, const kvist_options* options, kvist_client** client,
                               kvist_error* error) {
  return kvist_client_create_as(ns, options, nullptr, client, error);
}

kvist_code kvist_client_create_as(const kvist_namespace* ns, const kvist_options* options,
                                  const kvist_identity* identity, kvist_client** client, kvist_error* error) {
  if (client != nullptr) *client = nullptr;
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"ns", ns}, {"options", options}, {"client", client}}); !given.ok()) return given;
    absl::StatusOr<kvist::ClientOptions> read = ReadOptions(*ns, *options);
    if (!read.ok()) return read.status();
    absl::StatusOr<Shown> shown = Open(identity);
    if (!shown.ok()) return shown.status();
    auto made = std::make_unique<kvist_client>();
    made->transport = kvist::NewGrpcTransport(std::move(shown->tls), std::move(shown->token));
    read->transport = made->transport.get();
    absl::StatusOr<std::unique_ptr<kvist::Client>> created = kvist::Client::Create(*std::move(read));
    if (!created.ok()) return created.status();
    made->client = *std::move(created);
    *client = made.release();
    return absl::OkStatus();
  });
}

void kvist_client_destroy(kvist_client* client) { delete client; }

kvist_code kvist_keys(const kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint8_t* keys,
                      size_t keys_capacity, size_t* n_keys, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"client", client},
                                      {"tokens", tokens != nullptr || n_tokens == 0},
                                      {"keys", keys != nullptr || keys_capacity == 0},
                                      {"n_keys", n_keys}});
        !given.ok()) {
      return given;
    }
    const std::vector<kvist::Key> chain = KeysOf(*client, tokens, n_tokens);
    *n_keys = chain.size();
    if (chain.size() > keys_capacity) {
      return absl::InvalidArgumentError(
          absl::StrCat("keys holds ", keys_capacity, " keys; the prompt has ", chain.size(), " full blocks"));
    }
    for (const kvist::Key& key : chain) keys = std::copy(key.bytes.begin(), key.bytes.end(), keys);
    return absl::OkStatus();
  });
}

kvist_code kvist_match(kvist_client* client, const uint32_t* tokens, size_t n_tokens, kvist_match_result* result,
                       kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given =
            Require({{"client", client}, {"tokens", tokens != nullptr || n_tokens == 0}, {"result", result}});
        !given.ok()) {
      return given;
    }
    *result = {};
    absl::StatusOr<kvist::PrefixMatch> match = client->client->Match(KeysOf(*client, tokens, n_tokens));
    if (!match.ok()) return match.status();
    result->blocks = static_cast<uint32_t>(match->blocks());
    result->tokens = static_cast<uint32_t>(match->tokens());
    CopyText(kvist::MissReasonName(match->miss()), result->miss_reason);
    CopyText(match->miss_node(), result->miss_node);
    if (match->leased()) result->match_id = Keep(client, *std::move(match));
    return absl::OkStatus();
  });
}

kvist_code kvist_release(kvist_client* client, uint64_t match_id, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"client", client}}); !given.ok()) return given;
    std::unique_lock lock(client->mutex);
    auto kept = client->matches.extract(match_id);
    lock.unlock();
    // An unknown match is no error: its leases have ended by themselves.
    return kept.empty() ? absl::OkStatus() : kept.mapped().Release();
  });
}

kvist_code kvist_get(kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint32_t first_block,
                     uint32_t last_block, uint16_t* kv, size_t tokens_capacity, kvist_get_result* result,
                     kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"client", client},
                                      {"tokens", tokens != nullptr || n_tokens == 0},
                                      {"kv", kv != nullptr || first_block == last_block},
                                      {"result", result}});
        !given.ok()) {
      return given;
    }
    *result = {};
    kvist::Client& worker = *client->client;
    const std::vector<kvist::Key> chain = KeysOf(*client, tokens, n_tokens);
    if (last_block <= chain.size()) {
      if (absl::Status fits = CheckCapacity(worker, last_block, tokens_capacity); !fits.ok()) return fits;
    }
    const kvist::Pages pages = kvist::ContiguousPages(kv, worker.ns().Shape(), tokens_capacity);
    const absl::StatusOr<kvist::GetResult> got = worker.Get(chain, {first_block, last_block}, pages);
    if (!got.ok()) return got.status();
    result->blocks = static_cast<uint32_t>(got->blocks);
    result->tokens = static_cast<uint32_t>(got->blocks * worker.ns().tokens_per_block);
    result->fetched_bytes = got->fetched_bytes;
    result->plain_bytes = got->plain_bytes;
    result->fetch_seconds = absl::ToDoubleSeconds(got->fetch_time);
    result->decode_seconds = absl::ToDoubleSeconds(got->decode_time);
    CopyText(kvist::MissReasonName(got->miss), result->miss_reason);
    return absl::OkStatus();
  });
}

kvist_code kvist_put(kvist_client* client, const uint32_t* tokens, size_t n_tokens, const uint16_t* kv,
                     size_t tokens_capacity, kvist_put_result* result, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"client", client},
                                      {"tokens", tokens != nullptr || n_tokens == 0},
                                      {"kv", kv != nullptr || n_tokens == 0},
                                      {"result", result}});
        !given.ok()) {
      return given;
    }
    *result = {};
    kvist::Client& worker = *client->client;
    const std::vector<kvist::Key> chain = KeysOf(*client, tokens, n_tokens);
    if (absl::Status fits = CheckCapacity(worker, chain.size(), tokens_capacity); !fits.ok()) return fits;
    const absl::StatusOr<kvist::PutResult> put =
        worker.Put(chain, kvist::ContiguousPages(kv, worker.ns().Shape(), tokens_capacity));
    if (!put.ok()) return put.status();
    result->blocks = static_cast<uint32_t>(put->blocks);
    result->stored = static_cast<uint32_t>(put->stored);
    result->present = static_cast<uint32_t>(put->present);
    result->failed = static_cast<uint32_t>(put->failed);
    result->plain_bytes = put->plain_bytes;
    result->stored_bytes = put->stored_bytes;
    result->raised_tiles = put->raised_tiles;
    result->min_sqnr_db = put->min_sqnr_db;
    result->encode_seconds = absl::ToDoubleSeconds(put->encode_time);
    result->seconds = absl::ToDoubleSeconds(put->time);
    CopyText(put->failure, result->failure);
    return absl::OkStatus();
  });
}

kvist_code kvist_erase(kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint32_t* erased,
                       kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given =
            Require({{"client", client}, {"tokens", tokens != nullptr || n_tokens == 0}, {"erased", erased}});
        !given.ok()) {
      return given;
    }
    *erased = 0;
    const absl::StatusOr<kvist::EraseResult> result = client->client->Erase(KeysOf(*client, tokens, n_tokens));
    if (!result.ok()) return result.status();
    *erased = static_cast<uint32_t>(result->erased);
    if (result->failed == 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(result->failed, " blocks were not erased: ", result->failure));
  });
}

kvist_code kvist_explain_json(kvist_client* client, const uint32_t* tokens, size_t n_tokens, char* json,
                              size_t capacity, size_t* needed, kvist_error* error) {
  if (tokens == nullptr && n_tokens > 0) return Report(Require({{"tokens", false}}), error);
  return GiveText(client, {"json", json != nullptr || capacity == 0}, json, capacity, needed, error,
                  [&]() -> absl::StatusOr<std::string> {
                    const absl::StatusOr<kvist::ExplainResult> result =
                        client->client->Explain(KeysOf(*client, tokens, n_tokens));
                    if (!result.ok()) return result.status();
                    return kvist::JsonText(kvist::ExplainJson(*result));
                  });
}

kvist_code kvist_stats_json(kvist_client* client, char* json, size_t capacity, size_t* needed, kvist_error* error) {
  return GiveText(client, {"json", json != nullptr || capacity == 0}, json, capacity, needed, error, [client] {
    nlohmann::ordered_json nodes = nlohmann::ordered_json::array();
    for (const kvist::NodeAnswer& state : client->client->Stats()) nodes.push_back(kvist::NodeJson(state));
    return kvist::JsonText(nodes);
  });
}

kvist_code kvist_profile_fetch(kvist_client* client, const uint8_t* digest, kvist_profile** profile,
                               kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given = Require({{"client", client}, {"digest", digest}, {"profile", profile}});
    if (!given.ok()) return given;
    *profile = nullptr;
    std::array<uint8_t, 16> name;
    std::copy_n(digest, name.size(), name.begin());
    absl::StatusOr<std::shared_ptr<const kvist::OpenProfile>> fetched = client->client->FetchProfile(name);
    if (!fetched.ok()) return fetched.status();
    *profile = new kvist_profile{*std::move(fetched)};
    return absl::OkStatus();
  });
}

kvist_code kvist_profile_put(kvist_client* client, const kvist_profile* profile, uint32_t* nodes, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given = Require({{"client", client}, {"profile", profile}, {"nodes", nodes}});
    if (!given.ok()) return given;
    const kvist::PutProfileResult result = client->client->PutProfile(*profile->open);
    *nodes = static_cast<uint32_t>(result.kept + result.present);
    if (result.failed == 0) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(result.failed, " of ", result.nodes, " nodes do not keep the profile: ", result.failure));
  });
}

kvist_code kvist_metrics_text(kvist_client* client, char* text, size_t capacity, size_t* needed, kvist_error* error) {
  return GiveText(client, {"text", text != nullptr || capacity == 0}, text, capacity, needed, error,
                  [client] { return kvist::ExposeMetrics(client->client->counters()); });
}

}  // extern "C"
