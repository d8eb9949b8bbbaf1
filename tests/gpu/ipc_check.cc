// Goal    A worker reads a node's blocks where they lie in the node's device memory; a worker that is killed leaves no pin,
//         and a worker whose node is killed learns of it before it trusts what it read.
// Method  ipc_check KIND (device_kinds.h). A process with a TieredStore and a DeviceIpcServer, whose blocks have been
//         promoted; workers in processes of their own, which map the memory, copy the blocks out of it and compare every
//         byte. The parent opens no device: it speaks to both and kills them.
// Exit    0 right; 1 wrong; 3 the kind is not here, or it cannot share memory (MIG).
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cachestore/tiered_store.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "tests/device/device_kinds.h"
#include "tests/gpu/numbered.h"
#include "tests/gpu/role_process.h"
#include "tests/gpu/verdict.h"

namespace kvist::testing {
namespace {

constexpr absl::Duration kLong = absl::Seconds(15);
constexpr uint32_t kBlocks = 8;
constexpr uint64_t kTierBytes = uint64_t{32} << 20;

size_t SizeOf(uint32_t number) { return number % 2 == 0 ? 100'001 + number : (size_t{1} << 20) + 4 * number; }

template <typename Condition>
bool Comes(const Condition& condition) {
  for (const absl::Time end = absl::Now() + kLong; !condition(); absl::SleepFor(absl::Milliseconds(1))) {
    if (absl::Now() > end) return false;
  }
  return true;
}

// --- The node.

std::unique_ptr<TieredStore> StoreOn(const std::shared_ptr<Device>& device) {
  HostTierOptions host;
  host.capacity_bytes = kTierBytes;
  host.clock = [] { return absl::Now(); };
  DeviceTierOptions on_device;
  static_cast<TierRules&>(on_device) = host;
  on_device.device = device;
  on_device.capacity_bytes = kTierBytes;
  on_device.staging_bytes = kTierBytes / 4;
  return std::make_unique<TieredStore>(*HostTier::Create(host), *DeviceTier::Create(on_device), MoveRules());
}

absl::Status Put(BlockStore& store, uint32_t number) {
  auto reservation = store.Reserve(NumberedKey(number), SizeOf(number));
  if (!reservation.ok()) return reservation.status();
  const std::vector<uint8_t> bytes = NumberedBytes(number, SizeOf(number));
  if (absl::Status written = (*reservation)->Write(0, bytes); !written.ok()) return written;
  return (*reservation)->Commit(bytes.size());
}

bool IsOnDevice(TieredStore& store, uint32_t number) { return store.GetOnDevice(NumberedKey(number))->pin != nullptr; }

int Serve(const std::string& kind, const std::string& path, Line& line) {
  const auto device = OpenDevice(kind);
  if (!device.ok()) return NotHere(device.status().ToString());
  const std::unique_ptr<TieredStore> store = StoreOn(*device);
  for (uint32_t i = 0; i < kBlocks; ++i) {
    if (absl::Status put = Put(*store, i); !put.ok()) return Wrong(put.ToString());
    if (!Comes([&] { return IsOnDevice(*store, i); })) return Wrong(absl::StrCat("block ", i, " was not promoted"));
  }
  DeviceIpcOptions options;
  options.path = path;
  options.pinned_for = 4 * kLong;  // what ends pins here is death
  const auto server = DeviceIpcServer::Start(options, device->get(), &store->device()->memory(), store.get());
  if (absl::IsFailedPrecondition(server.status())) return NotHere(server.status().ToString());
  if (!server.ok()) return Wrong(server.status().ToString());
  line.Say("ready");
  while (line.Hear(4 * kLong).ok()) {
    line.Say(absl::StrCat((*server)->counters().pins, " pins, ", store->device()->Stats()->pinned_bytes, " bytes"));
  }
  return kRight;
}

// --- A worker.

std::string Compare(Device& device, uint32_t number, const DeviceIpcLookup& lookup) {
  if (lookup.block == nullptr) return absl::StrCat("block ", number, " is not served");
  const auto bytes = ReadBytes(device, lookup.block->extents());
  if (!bytes.ok()) return bytes.status().ToString();
  if (*bytes != NumberedBytes(number, SizeOf(number))) return absl::StrCat("block ", number, " has other bytes");
  return std::string(lookup.block->StillHeld().message());
}

int Work(const std::string& kind, const std::string& path, Line& line) {
  const auto device = OpenDevice(kind);
  if (!device.ok()) return Wrong(device.status().ToString());
  const auto client = DeviceIpcClient::Connect(path, device->get(), kLong);
  if (!client.ok()) return Wrong(client.status().ToString());
  std::vector<Key> keys;
  for (uint32_t i = 0; i <= kBlocks; ++i) keys.push_back(NumberedKey(i));
  const auto lookups = (*client)->Get(keys, kLong);
  if (!lookups.ok()) return Wrong(lookups.status().ToString());
  for (uint32_t i = 0; i < kBlocks; ++i) {
    if (const std::string why = Compare(**device, i, (*lookups)[i]); !why.empty()) return Wrong(why);
  }
  if ((*lookups)[kBlocks].miss != MissReason::kNeverStored) return Wrong("a block that was never stored is no miss");
  line.Say("holds");
  if (!line.Hear(4 * kLong).ok()) return Wrong("the parent has gone");
  for (uint32_t i = 0; i < kBlocks; ++i) {
    if (!Comes([&] { return absl::IsUnavailable((*lookups)[i].block->StillHeld()); })) {
      return Wrong("a pin of a node that was killed is still held");
    }
  }
  const absl::Status later = (*client)->Get(keys, kLong).status();
  return absl::IsUnavailable(later) ? kRight
                                    : Wrong(absl::StrCat("a node that was killed answers: ", later.ToString()));
}

// --- The parent.

std::string PinsOf(RoleProcess& node) {
  node.line().Say("pins");
  return node.line().Hear(kLong).value_or("the node does not answer");
}

int Check(const std::string& kind, const std::string& path) {
  RoleProcess node([&](Line& line) { return Serve(kind, path, line); });
  if (!node.line().Hear(4 * kLong).ok()) return node.Wait(kLong).value_or(kWrong);  // the node has said why
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < kBlocks; ++i) bytes += (SizeOf(i) + 63) / 64 * 64;
  const std::string all = absl::StrCat(kBlocks, " pins, ", bytes, " bytes"), none = "0 pins, 0 bytes";

  RoleProcess victim([&](Line& line) { return Work(kind, path, line); });
  if (!victim.line().Hear(4 * kLong).ok()) return Wrong("the worker did not read the blocks");
  if (const std::string pins = PinsOf(node); pins != all)
    return Wrong(absl::StrCat("while a worker holds them: ", pins));
  std::printf("right: %u blocks, every byte as it was stored, read from the node's memory\n", kBlocks);
  victim.Kill();
  if (!Comes([&] { return PinsOf(node) == none; })) return Wrong(absl::StrCat("of a dead worker: ", PinsOf(node)));
  std::printf("right: a worker that is killed leaves no pin\n");

  RoleProcess worker([&](Line& line) { return Work(kind, path, line); });
  if (!worker.line().Hear(4 * kLong).ok()) return Wrong("the second worker did not read the blocks");
  node.Kill();
  worker.line().Say("the node has gone");
  if (worker.Wait(4 * kLong) != kRight) return Wrong("the worker whose node was killed did not end as it should");
  std::printf("right: a worker whose node is killed learns of it\n");
  return kRight;
}

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "ipc_check Emulated|Cuda\n");
    return kvist::testing::kWrong;
  }
  const auto path = std::filesystem::temp_directory_path() / absl::StrCat("kvist-ipc-check-", getpid());
  const int verdict = kvist::testing::Check(argv[1], path.string());
  std::filesystem::remove(path);
  return verdict;
}
