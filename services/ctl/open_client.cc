#include "services/ctl/open_client.h"

#include <utility>
#include <vector>

#include "kernels/tile_bits.h"
#include "services/cluster/static_file.h"
#include "services/ctl/input_files.h"

namespace kvist {

absl::StatusOr<std::unique_ptr<Client>> OpenClient(const Command& command, Namespace ns, Transport* transport) {
  ClientOptions options;
  if (command.cluster_file.empty()) {
    options.seeds = command.seeds;
  } else {
    absl::StatusOr<View> view =
        LoadView(command.cluster_file, options.runtime->Now() + command.deadline, options.runtime->clock());
    if (!view.ok()) return view.status();
    options.view = *std::move(view);
  }
  options.ns = std::move(ns);
  if (!command.profile_file.empty()) {
    absl::StatusOr<std::shared_ptr<const OpenProfile>> profile = ReadProfileFile(command.profile_file);
    if (!profile.ok()) return profile.status();
    if (command.mean_bits > 0) {  // readers need no profile
      absl::StatusOr<std::vector<uint8_t>> bits =
          BitsByTile((*profile)->ForDecoding(), command.codec, command.mean_bits);
      if (!bits.ok()) return bits.status();
      options.tile_bits = *std::move(bits);
    } else {
      options.profile = *std::move(profile);
    }
  }
  options.transport = transport;
  options.deadline = command.deadline;
  options.codec = command.codec;
  options.floor_db = command.floor_db;
  options.key_bits = command.key_bits;
  options.value_bits = command.value_bits;
  options.threads = command.threads;
  options.replicas = command.replicas;
  return Client::Create(std::move(options));
}

Namespace AnyNamespace() {
  Namespace any;
  any.model = "any";
  any.layers = any.heads = 1;
  any.head_dim = 64;
  return any;
}

absl::StatusOr<View> OpenView(const Command& command, Transport* transport) {
  if (!command.cluster_file.empty()) {
    Runtime* const runtime = RealRuntime();
    return LoadView(command.cluster_file, runtime->Now() + command.deadline, runtime->clock());
  }
  const absl::StatusOr<std::unique_ptr<Client>> client = OpenClient(command, AnyNamespace(), transport);
  if (!client.ok()) return client.status();
  return (*client)->view();
}

}  // namespace kvist
