/* The C ABI of the worker library (libkvist.so), fit for FFI: plain structs, no callbacks, no ownership surprises.
 *
 * Shapes  a KV buffer is uint16_t[2][layers][heads][tokens_capacity][head_dim], K then V, bf16 or f16 bits, K after
 * RoPE; of the dtypes of one byte uint8_t, at an even address. Units   tokens, blocks, bytes, milliseconds; names say which. Threads a kvist_client may be used by any number
 * of threads. No function keeps a pointer after it returns. Errors  every function that can fail returns KVIST_OK or a
 * kvist_code and fills `error` (if not NULL) with a NUL-terminated sentence: what was wrong and what to do. A miss is
 * no error.
 */
#ifndef KVIST_SERVICES_WORKER_KVIST_H_
#define KVIST_SERVICES_WORKER_KVIST_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVIST_ABI_VERSION 5
#define KVIST_ERROR_BYTES 512

/* Codes are those of gRPC and absl::StatusCode. */
typedef enum kvist_code {
  KVIST_OK = 0,
  KVIST_INVALID_ARGUMENT = 3,
  KVIST_DEADLINE_EXCEEDED = 4,
  KVIST_NOT_FOUND = 5,
  KVIST_PERMISSION_DENIED = 7,
  KVIST_RESOURCE_EXHAUSTED = 8,
  KVIST_FAILED_PRECONDITION = 9,
  KVIST_INTERNAL = 13,
  KVIST_UNAVAILABLE = 14,
  KVIST_DATA_LOSS = 15,
  KVIST_UNAUTHENTICATED = 16
} kvist_code;

typedef struct kvist_client kvist_client;
typedef struct kvist_profile kvist_profile; /* of codec "q", for one model: immutable, named by a digest */
typedef struct kvist_error {
  char message[KVIST_ERROR_BYTES];
} kvist_error;

/* Everything that makes KV differ (kernels/FORMAT.md, "Namespaces"). Strings are NUL-terminated UTF-8; NULL = "". */
typedef struct kvist_namespace {
  const char* model;          /* name of the model */
  const char* weights_digest; /* of the weights file, any text that changes with them */
  const char* dtype;          /* "bf16" or "f16"; for codec "fp8p" "f8e4m3", "f8e5m2" or "u8" (opaque bytes) */
  const char* rope;           /* RoPE and YaRN configuration, any canonical text */
  const char* tenant_salt;
  uint32_t layers, heads, head_dim; /* of this rank's slice */
  uint32_t tp_rank, tp_size, pp_rank, pp_size;
  uint32_t tokens_per_block; /* 16 to 256, a multiple of 16 */
  const uint8_t*
      profile_digest; /* 16 bytes, of a profile that blocks need; NULL = that of kvist_options.profile, or none */
} kvist_namespace;

typedef struct kvist_options {
  const char* cluster_file;      /* static cluster file; may be NULL if there are seeds */
  const char* codec;             /* for Put: "raw16", "x16", "i8", "ladder", "trellis", "fp8p", "q"; NULL = "ladder" */
  float floor_db;                /* put: 0 = the codec's default. get: a block that achieved less is a miss; 0 = any */
  uint32_t min_precision;        /* for Get: bits per code below which a block is a miss; 0 = any */
  uint32_t deadline_ms;          /* of every call; 0 = 5000 */
  uint32_t lease_ms;             /* that Match asks for; 0 = 5000 */
  uint32_t threads;              /* decode and parallel calls; 0 = 2 */
  const char* seeds;             /* "host:port,host:port" of any nodes: they are asked for the view; NULL = none */
  uint32_t replicas;             /* nodes that shall keep each block that is put, 1 to 3; 0 = 1 */
  uint32_t key_bits, value_bits; /* for Put: of a code of "ladder" or "trellis"; 0 = the codec's own */
  const uint8_t* tile_bits;      /* for Put: [layers][2][heads], of each head's keys, then values, in place of these;
                                    NULL = all alike. kvist_profile_tile_bits finds good ones */
  uint32_t exact_heads; /* for Put with "ladder" and "trellis": the last heads of keys and of values, kept as they
                                    are (the rotated part of MLA); 0 = none */
  const kvist_profile*
      profile; /* that "q" puts and gets with. NULL: what gets need is fetched from the nodes, and until
                                    then blocks are "no_profile" misses */
} kvist_options;

/* Who the client is to the nodes, and how it knows them: mutual TLS, a bearer token, or both; then the token counts. All
 * of the first three files, or none (plaintext), or with a token the CA alone. The files are looked at again every 10 s,
 * the token's every second; what is bad leaves the last good one in force. */
typedef struct kvist_identity {
  size_t size_bytes;       /* sizeof(kvist_identity), so that later fields can follow */
  const char* cert_file;   /* PEM: the certificate, which clients may use, then those between it and its CA */
  const char* key_file;    /* PEM: its key, not encrypted, which only its owner may read; a group too if root owns it */
  const char* ca_file;     /* PEM: the CAs that the nodes' certificates may come from */
  const char* server_name; /* that a node's certificate has to name; NULL = the host of the node's address */
  const char* token_file;  /* a bearer token, one line, which only its owner may read; as key_file */
} kvist_identity;

typedef struct kvist_match_result {
  uint32_t blocks, tokens; /* leading blocks of the prompt that are stored, and the tokens they hold */
  uint64_t match_id;       /* names the leases for kvist_get and kvist_release; 0 = none */
  char miss_reason[32];    /* of the first missing block: "never_stored", "overloaded", ...; "" if all were found */
  char miss_node[64];      /* its owner */
} kvist_match_result;

typedef struct kvist_get_result {
  uint32_t blocks, tokens;              /* leading blocks that were delivered: pages [0, tokens) are valid */
  uint64_t fetched_bytes, plain_bytes;  /* over the wire; written into the pages */
  double fetch_seconds, decode_seconds; /* wall time of the fetch; CPU time summed over decoding threads */
  char miss_reason[32];                 /* why the next block was not delivered; "" if all asked were */
} kvist_get_result;

typedef struct kvist_put_result {
  uint32_t blocks, stored, present, failed; /* full blocks of the prompt; put now; there already; not stored */
  uint64_t plain_bytes, stored_bytes;       /* of the blocks put now: before and after encoding */
  uint32_t raised_tiles;                    /* tiles that needed a higher precision than the codec's */
  float min_sqnr_db;
  double encode_seconds, seconds; /* CPU time summed over threads; wall time */
  char failure[256];              /* first reason of a failure, "" if none failed */
} kvist_put_result;

/* Of one contiguous block of KV, uint16_t[2][layers][heads][tokens][head_dim], in the calls below that need no client. */
typedef struct kvist_shape {
  uint32_t layers, heads, tokens, head_dim;
  const char* dtype; /* "bf16" or "f16" */
} kvist_shape;

typedef struct kvist_encode_options {
  size_t size_bytes;               /* sizeof(kvist_encode_options), so that later fields can follow */
  const char* codec;               /* as kvist_options.codec */
  float floor_db;                  /* least SQNR of a tile; 0 = the codec's default */
  uint32_t first_position;         /* of the block's first token in its prompt; 0 makes tokens 0 to 3 sinks */
  const uint8_t* key;              /* 32 bytes; NULL = zeros: a block that no node will take */
  const uint8_t* namespace_digest; /* 16 bytes; NULL = zeros */
  uint32_t key_bits, value_bits;   /* as in kvist_options */
  const uint8_t* tile_bits;        /* as in kvist_options */
  uint32_t exact_heads;            /* as in kvist_options */
  const kvist_profile* profile;    /* that "q" needs; NULL for all others */
} kvist_encode_options;

typedef struct kvist_decode_options {
  size_t size_bytes;            /* sizeof(kvist_decode_options), so that later fields can follow */
  uint32_t precision;           /* bits per code; 0 = the highest that the bytes hold */
  const kvist_profile* profile; /* that a block of "q" names by its digest; NULL for all others */
} kvist_decode_options;

/* What a block's header says (kernels/FORMAT.md, "Header"). */
typedef struct kvist_block_description {
  char codec[16], dtype[8];
  uint32_t codec_version, layers, heads, tokens, head_dim, first_position;
  uint32_t precision;              /* bits per code that the bytes given hold; 0 = not one whole plane of codes */
  uint32_t planes, planes_present; /* of the format; of those, whole ones in the bytes given */
  uint32_t raised_tiles;           /* tiles that needed a higher precision than the codec's */
  float floor_db, min_sqnr_db;     /* promised; of the worst tile at full precision, infinity = exact */
  uint64_t block_bytes;            /* of the whole block */
  uint8_t key[32], namespace_digest[16], profile_digest[16];
} kvist_block_description;

uint32_t kvist_abi_version(void);
const char* kvist_version(void);

kvist_code kvist_client_create(const kvist_namespace* ns, const kvist_options* options, kvist_client** client,
                               kvist_error* error);
/* The same for nodes that want certificates; `identity` may be NULL. A file that is wrong is named and said why. A node
 * that refuses the certificate, or shows one that is refused, is as one that is down. */
kvist_code kvist_client_create_as(const kvist_namespace* ns, const kvist_options* options,
                                  const kvist_identity* identity, kvist_client** client, kvist_error* error);
void kvist_client_destroy(kvist_client* client);

/* The chained keys of the full blocks of `tokens`: 32 bytes each into `keys`, which holds keys_capacity of them. */
kvist_code kvist_keys(const kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint8_t* keys,
                      size_t keys_capacity, size_t* n_keys, kvist_error* error);

/* Counts the leading blocks of the prompt that the cluster holds, and leases them. */
kvist_code kvist_match(kvist_client* client, const uint32_t* tokens, size_t n_tokens, kvist_match_result* result,
                       kvist_error* error);
kvist_code kvist_release(kvist_client* client, uint64_t match_id, kvist_error* error);

/* Fetches blocks [first_block, last_block) of the prompt, verifies, and decodes each into kv at its own tokens. Blocks
 * that cannot be had end the run: result->blocks counts from first_block. Pages past result->tokens may have been
 * written. */
kvist_code kvist_get(kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint32_t first_block,
                     uint32_t last_block, uint16_t* kv, size_t tokens_capacity, kvist_get_result* result,
                     kvist_error* error);

/* Encodes and stores the full blocks of `tokens` (those that the cluster lacks) from kv. */
kvist_code kvist_put(kvist_client* client, const uint32_t* tokens, size_t n_tokens, const uint16_t* kv,
                     size_t tokens_capacity, kvist_put_result* result, kvist_error* error);

/* Forgets the blocks of the prompt; `erased` counts those that were there. */
kvist_code kvist_erase(kvist_client* client, const uint32_t* tokens, size_t n_tokens, uint32_t* erased,
                       kvist_error* error);

/* Says block by block where each full block of the prompt is or what became of it, and names namespaces that almost
 * match:
 * {"leading_blocks": n, "blocks": [{"present", "miss_reason", "node", "tier", "size_bytes", "expires", "gone",
 * "made_room_for", "detail"}], "near_namespaces": [{"digest", "blocks", "fields": [{"name", "asked", "stored"}]}]}.
 * Fields that do not apply are left out. As kvist_stats_json. */
kvist_code kvist_explain_json(kvist_client* client, const uint32_t* tokens, size_t n_tokens, char* json,
                              size_t capacity, size_t* needed, kvist_error* error);

/* One JSON object per node of the cluster, as a JSON array: id, address, reachable, and ServerInfo's figures. Returns
 * the bytes needed including the NUL in *needed; writes only if `capacity` is enough. */
kvist_code kvist_stats_json(kvist_client* client, char* json, size_t capacity, size_t* needed, kvist_error* error);

/* The worker's own metrics in Prometheus text format 0.0.4 (kvist_worker_*), for the worker to add to what it exposes:
 * blocks and bytes fetched and stored, encode and decode seconds, misses by reason, checksum failures. As
 * kvist_stats_json. */
kvist_code kvist_metrics_text(kvist_client* client, char* text, size_t capacity, size_t* needed, kvist_error* error);

/* Profiles of codec "q", which `kvist calibrate` makes. A handle may be used by any number of threads and outlives every
 * call that it is given to; what was opened is immutable. To read takes the parse alone; what encoding needs beside it,
 * up to seconds of work and the memory again, the first encode makes. */

/* Checks every number of the file's bytes, which it copies, and says which one is wrong. */
kvist_code kvist_profile_open(const uint8_t* bytes, size_t n_bytes, kvist_profile** profile, kvist_error* error);
void kvist_profile_destroy(kvist_profile* profile);

/* What names it in blocks and namespaces, the first 16 bytes of the file's SHA-256, into `digest`. */
kvist_code kvist_profile_digest(const kvist_profile* profile, uint8_t* digest, kvist_error* error);

/* Digest, facts, and what the file says to people:
 * {"digest", "file_bytes", "layers", "heads", "head_dim", "groups" (of heads), "rope", "rope_factor", "step",
 * "layers_before", "key_from_value", "layers_between_resets", "notes"}. As kvist_stats_json. */
kvist_code kvist_profile_json(const kvist_profile* profile, char* json, size_t capacity, size_t* needed,
                              kvist_error* error);

/* The file's bytes, which kvist_profile_open takes: *needed says how many, and they are written if `capacity` is enough. */
kvist_code kvist_profile_bytes(const kvist_profile* profile, uint8_t* bytes, size_t capacity, size_t* needed,
                               kvist_error* error);

/* Fetches the profile of this digest (16 bytes) from the nodes; if it is the namespace's, kvist_get has it from now on. */
kvist_code kvist_profile_fetch(kvist_client* client, const uint8_t* digest, kvist_profile** profile,
                               kvist_error* error);

/* Has all nodes keep the profile; `nodes` counts those that do. A put of "q" does so by itself, node by node. */
kvist_code kvist_profile_put(kvist_client* client, const kvist_profile* profile, uint32_t* nodes, kvist_error* error);

/* Shares mean_bits (in the mean over layers, heads, keys and values) of a code of "ladder" (2 to 8) or "trellis" (2 to 8, of which
 * some have 2, some 3, some 8) out among the profile's heads, by how much their errors cost answers: n_tiles = layers * 2 *
 * heads numbers, for kvist_options.tile_bits. */
kvist_code kvist_profile_tile_bits(const kvist_profile* profile, const char* codec, float mean_bits, uint8_t* tile_bits,
                                   size_t n_tiles, kvist_error* error);

/* Encoding and decoding here, without a cluster: to judge a codec, or to look at a block. Pure; any number of threads. */

/* Bytes that kvist_encode needs at most for any values of this shape. */
kvist_code kvist_encode_bound(const kvist_shape* shape, const kvist_encode_options* options, size_t* bound_bytes,
                              kvist_error* error);

/* Encodes kv as one block; *block_bytes says its length. `options` may be NULL. */
kvist_code kvist_encode(const kvist_shape* shape, const kvist_encode_options* options, const uint16_t* kv,
                        uint8_t* block, size_t capacity, size_t* block_bytes, kvist_error* error);

/* Reads header and table of a block; the bytes may stop early, at the end of any plane (a lower precision). */
kvist_code kvist_describe(const uint8_t* block, size_t n_bytes, kvist_block_description* description,
                          kvist_error* error);

/* Verifies a block's checksums and decodes it into kv, which holds n_values: exactly those of the block's shape.
 * `options` may be NULL. */
kvist_code kvist_decode(const uint8_t* block, size_t n_bytes, const kvist_decode_options* options, uint16_t* kv,
                        size_t n_values, kvist_error* error);

#ifdef __cplusplus
}
#endif

#endif /* KVIST_SERVICES_WORKER_KVIST_H_ */
