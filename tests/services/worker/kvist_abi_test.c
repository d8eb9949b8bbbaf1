/* Goal: kvist.h is C, and no argument, however wrong, gets further than a sentence. Method: a C program over the static
 * library; no node runs, so every answer must come from the checks or from a refused connection. What works is tested
 * over real servers elsewhere (client_loopback_test, and the Python package). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/worker/kvist.h"

static int failures = 0;

static void Expect(int line, int holds, const char* what, const char* message) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "line %d: not so: %s (message: %s)\n", line, what, message);
}
#define EXPECT(condition) Expect(__LINE__, (condition), #condition, error.message)
#define EXPECT_SAYS(text) Expect(__LINE__, strstr(error.message, text) != NULL, "says: " text, error.message)

static kvist_namespace TestNamespace(void) {
  kvist_namespace ns = {0};
  ns.model = "m";
  ns.dtype = "bf16";
  ns.layers = 2;
  ns.heads = 1;
  ns.head_dim = 64;
  ns.tp_size = 1;
  ns.pp_size = 1;
  ns.tokens_per_block = 16;
  return ns;
}

/* A cluster of one node at a port where nobody listens. */
static const char* ClusterFile(void) {
  static char path[1024];
  const char* folder = getenv("TEST_TMPDIR");
  snprintf(path, sizeof(path), "%s/cluster.json", folder ? folder : "/tmp");
  FILE* file = fopen(path, "w");
  if (file == NULL) exit(3);
  fputs("{\"view\": 1, \"nodes\": [{\"id\": \"n0\", \"address\": \"127.0.0.1:1\", \"capacity\": \"1MiB\"}]}", file);
  fclose(file);
  return path;
}

static void WrongArgumentsOfTheCodec(void) {
  kvist_error error = {""};
  kvist_shape shape = {1, 1, 16, 64, "bf16"};
  kvist_encode_options options = {0};
  kvist_decode_options precise = {0};
  kvist_block_description description;
  static uint16_t kv[2 * 16 * 64];
  static uint8_t block[8192];
  size_t size = 0;
  EXPECT(kvist_encode(NULL, NULL, NULL, NULL, 0, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("shape, kv, block, block_bytes are NULL");
  EXPECT(kvist_encode_bound(&shape, &options, &size, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("options.size_bytes is 0");
  options.size_bytes = sizeof(options) + 8;
  EXPECT(kvist_encode_bound(&shape, &options, &size, &error) == KVIST_INVALID_ARGUMENT);
  options.size_bytes = sizeof(options);
  options.codec = "zip";
  shape.head_dim = 65;
  EXPECT(kvist_encode_bound(&shape, &options, &size, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("zip");
  EXPECT_SAYS("65");
  shape.head_dim = 64;
  EXPECT(kvist_encode_bound(&shape, NULL, &size, &error) == KVIST_OK);
  EXPECT(size <= sizeof(block));
  EXPECT(kvist_encode(&shape, NULL, kv, block, 100, &size, &error) == KVIST_RESOURCE_EXHAUSTED);
  EXPECT(kvist_encode(&shape, NULL, kv, block, sizeof(block), &size, &error) == KVIST_OK);
  EXPECT(kvist_describe(block, 20, &description, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_describe(block, size, &description, &error) == KVIST_OK);
  EXPECT(strcmp(description.codec, "ladder") == 0);
  EXPECT(kvist_decode(block, size, NULL, kv, 7, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("kv holds 7 values; the block has 2048");
  EXPECT(kvist_decode(block, size, &precise, kv, 2048, &error) == KVIST_INVALID_ARGUMENT);
  precise.size_bytes = sizeof(precise);
  precise.precision = 4000000000u;
  EXPECT(kvist_decode(block, size, &precise, kv, 2048, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_decode(block, size, NULL, kv, 2048, &error) == KVIST_OK);
}

static void WrongArgumentsOfCreate(void) {
  kvist_error error = {""};
  kvist_namespace ns = TestNamespace();
  kvist_options options = {0};
  kvist_client* client = (kvist_client*)&options;
  EXPECT(kvist_client_create(NULL, NULL, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("ns, options, client are NULL");
  EXPECT(kvist_client_create(NULL, NULL, NULL, NULL) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("cluster_file is missing");
  EXPECT(client == NULL);
  options.codec = "zip";
  ns.dtype = "f64";
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("zip");
  EXPECT_SAYS("f64");
  EXPECT_SAYS("cluster_file is missing");
  ns = TestNamespace();
  options.codec = "ladder";
  options.cluster_file = "/nowhere/cluster.json";
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_NOT_FOUND);
  EXPECT_SAYS("cannot read cluster file /nowhere/cluster.json");
  options.cluster_file = ClusterFile();
  ns.tokens_per_block = 17;
  options.floor_db = -3;
  options.threads = 4000000000u;
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("17");
  EXPECT_SAYS("floor_db -3");
  EXPECT_SAYS("threads");
  /* Bits of tiles are not read by sizes that no namespace can have. */
  const uint8_t bits[4] = {4, 4, 4, 4};
  options.tile_bits = bits;
  ns = TestNamespace();
  ns.heads = 4000000000u;
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("heads");
  ns = TestNamespace();
  options = (kvist_options){0};
  options.seeds = "nowhere, 127.0.0.1:0";
  options.replicas = 9;
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("seed \"nowhere\" is not host:port");
  EXPECT_SAYS("seed \"127.0.0.1:0\" is not host:port");
  EXPECT_SAYS("replicas 9 is not 1 to 3");
  options.seeds = "127.0.0.1:1";
  options.replicas = 3;
  options.deadline_ms = 300;
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_UNAVAILABLE);
  EXPECT_SAYS("no seed gave a view of the cluster: 127.0.0.1:1: ");
  EXPECT(client == NULL);
  kvist_client_destroy(NULL);
}

static void WrongIdentities(void) {
  kvist_error error = {""};
  kvist_namespace ns = TestNamespace();
  kvist_options options = {0};
  kvist_identity identity = {0};
  kvist_client* client = (kvist_client*)&options;
  options.cluster_file = ClusterFile();
  EXPECT(kvist_client_create_as(NULL, NULL, &identity, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("ns, options, client are NULL");
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("identity.size_bytes is 0, not ");
  EXPECT_SAYS("set it to sizeof(kvist_identity)");
  EXPECT(client == NULL);
  identity.size_bytes = sizeof(identity);
  identity.cert_file = "/nowhere/worker.crt";
  identity.ca_file = "";
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("TLS needs a certificate, its key and a CA; missing: key CA");
  identity.key_file = "/nowhere/worker.key";
  identity.ca_file = "/nowhere/ca.crt";
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("the TLS certificate file '/nowhere/worker.crt' cannot be read (No such file or directory)");
  identity = (kvist_identity){.size_bytes = sizeof(identity), .server_name = "node.example"};
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("server_name is for TLS alone");
  identity = (kvist_identity){.size_bytes = sizeof(identity), .token_file = "/nowhere/token"};
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("token file '/nowhere/token' cannot be read (No such file or directory)");
  identity.ca_file = "/nowhere/ca.crt";
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("the TLS CA file '/nowhere/ca.crt' cannot be read");
  identity.cert_file = "/nowhere/worker.crt";
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("missing: key");
  EXPECT(client == NULL);
}

static void WithoutFilesAnIdentityIsPlaintext(void) {
  kvist_error error = {""};
  kvist_namespace ns = TestNamespace();
  kvist_options options = {0};
  kvist_identity identity = {.size_bytes = sizeof(identity)};
  kvist_client* client = NULL;
  options.cluster_file = ClusterFile();
  EXPECT(kvist_client_create_as(&ns, &options, &identity, &client, &error) == KVIST_OK && client != NULL);
  kvist_client_destroy(client);
  EXPECT(kvist_client_create_as(&ns, &options, NULL, &client, &error) == KVIST_OK && client != NULL);
  kvist_client_destroy(client);
}

static void WrongArgumentsOfCalls(kvist_client* client) {
  kvist_error error = {""};
  uint32_t tokens[40] = {0};
  uint16_t kv[1] = {0};
  uint8_t keys[64];
  size_t count = 0;
  uint32_t erased = 0;
  kvist_match_result match;
  kvist_get_result got;
  kvist_put_result put;
  EXPECT(kvist_keys(NULL, NULL, 3, NULL, 4, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("client, tokens, keys, n_keys are NULL");
  EXPECT(kvist_keys(client, tokens, 40, keys, 1, &count, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("keys holds 1 keys; the prompt has 2 full blocks");
  EXPECT(kvist_keys(client, tokens, 40, keys, 2, &count, &error) == KVIST_OK && count == 2);
  EXPECT(kvist_keys(client, NULL, 0, NULL, 0, &count, &error) == KVIST_OK && count == 0);
  EXPECT(kvist_match(client, NULL, 5, &match, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("tokens is NULL");
  EXPECT(kvist_release(NULL, 1, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_release(client, 12345, &error) == KVIST_OK);
  EXPECT(kvist_get(client, tokens, 40, 0, 1, NULL, 16, &got, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("kv is NULL");
  EXPECT(kvist_get(client, tokens, 40, 0, 2, kv, 31, &got, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("kv holds 31 tokens; 2 blocks need 32");
  EXPECT(kvist_get(client, tokens, 40, 1, 3, kv, 99, &got, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("blocks [1, 3) are not within the prompt's 2 full blocks");
  EXPECT(kvist_put(client, tokens, 40, kv, 1, &put, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("kv holds 1 tokens; 2 blocks need 32");
  EXPECT(kvist_put(client, tokens, 40, NULL, 40, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("kv, result are NULL");
  EXPECT(kvist_erase(client, tokens, 40, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_stats_json(client, NULL, 10, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("json, needed are NULL");
  EXPECT(kvist_explain_json(client, NULL, 3, NULL, 0, &count, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("tokens is NULL");
  EXPECT(kvist_explain_json(NULL, tokens, 3, NULL, 10, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("client, json, needed are NULL");
  (void)erased;
}

static void AClusterThatIsDown(kvist_client* client) {
  kvist_error error = {""};
  uint32_t tokens[40] = {0};
  static uint16_t kv[2 * 2 * 1 * 32 * 64];
  uint32_t erased = 7;
  size_t needed = 0;
  char json[2048];
  kvist_match_result match;
  kvist_get_result got;
  kvist_put_result put;
  EXPECT(kvist_match(client, tokens, 40, &match, &error) == KVIST_OK);
  EXPECT(match.blocks == 0 && match.match_id == 0 && strcmp(match.miss_reason, "owner_down") == 0 &&
         strcmp(match.miss_node, "n0") == 0);
  EXPECT(kvist_get(client, tokens, 40, 0, 2, kv, 32, &got, &error) == KVIST_OK);
  EXPECT(got.blocks == 0 && strcmp(got.miss_reason, "owner_down") == 0);
  EXPECT(kvist_put(client, tokens, 40, kv, 32, &put, &error) == KVIST_OK);
  EXPECT(put.blocks == 2 && put.failed == 2 && strncmp(put.failure, "node n0: ", 9) == 0);
  EXPECT(kvist_erase(client, tokens, 40, &erased, &error) == KVIST_UNAVAILABLE && erased == 0);
  EXPECT_SAYS("2 blocks were not erased: node n0: ");
  EXPECT(kvist_explain_json(client, tokens, 40, json, sizeof(json), &needed, &error) == KVIST_OK);
  EXPECT(strlen(json) + 1 == needed && strstr(json, "\"leading_blocks\":0") != NULL);
  EXPECT(strstr(json, "\"present\":false,\"miss_reason\":\"owner_down\",\"node\":\"n0\"") != NULL);
  EXPECT(kvist_stats_json(client, NULL, 0, &needed, &error) == KVIST_OK && needed > 10);
  EXPECT(kvist_stats_json(client, json, sizeof(json), &needed, &error) == KVIST_OK);
  EXPECT(strlen(json) + 1 == needed && strstr(json, "\"reachable\":false") != NULL);
}

static void WrongProfiles(kvist_client* client) {
  kvist_error error = {""};
  kvist_profile* profile = (kvist_profile*)&error;
  kvist_shape shape = {1, 1, 16, 64, "bf16"};
  kvist_encode_options options = {0};
  static uint16_t kv[2 * 16 * 64];
  static uint8_t block[8192], digest[16] = {0xab};
  size_t size = 0;
  uint32_t nodes = 9;
  EXPECT(kvist_profile_open(NULL, 3, &profile, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("bytes is NULL");
  EXPECT(kvist_profile_open(block, sizeof(block), &profile, &error) == KVIST_INVALID_ARGUMENT && profile == NULL);
  EXPECT_SAYS("profile");
  EXPECT(kvist_profile_digest(NULL, digest, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_profile_json(NULL, NULL, 0, &size, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_profile_bytes(NULL, NULL, 0, &size, &error) == KVIST_INVALID_ARGUMENT);
  kvist_profile_destroy(NULL);
  options.size_bytes = sizeof(options);
  options.codec = "q";
  EXPECT(kvist_encode(&shape, &options, kv, block, sizeof(block), &size, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT_SAYS("q needs a profile");
  EXPECT(kvist_profile_fetch(client, digest, NULL, &error) == KVIST_INVALID_ARGUMENT);
  EXPECT(kvist_profile_fetch(client, digest, &profile, &error) == KVIST_NOT_FOUND && profile == NULL);
  EXPECT_SAYS("no node gave profile ab000000000000000000000000000000");
  EXPECT_SAYS("n0: ");
  EXPECT(kvist_profile_put(client, NULL, &nodes, &error) == KVIST_INVALID_ARGUMENT);
}

int main(void) {
  kvist_error error = {""};
  kvist_namespace ns = TestNamespace();
  kvist_options options = {0};
  kvist_client* client = NULL;
  EXPECT(kvist_abi_version() == KVIST_ABI_VERSION);
  EXPECT(strlen(kvist_version()) > 0);
  WrongArgumentsOfTheCodec();
  WrongArgumentsOfCreate();
  WrongIdentities();
  WithoutFilesAnIdentityIsPlaintext();
  options.cluster_file = ClusterFile();
  options.deadline_ms = 1000;
  EXPECT(kvist_client_create(&ns, &options, &client, &error) == KVIST_OK);
  if (client == NULL) return 1;
  WrongArgumentsOfCalls(client);
  AClusterThatIsDown(client);
  WrongProfiles(client);
  kvist_client_destroy(client);
  if (failures > 0) fprintf(stderr, "%d expectations failed\n", failures);
  return failures == 0 ? 0 : 1;
}
