// Rank 0: serves blocks of its device by TransferSessions over real gRPC, and sends them raw when it is told to.
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/transport/nccl/transfer_service.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "tests/gpu/nccl_roles.h"
#include "tests/gpu/numbered.h"
#include "tests/gpu/raw_nccl.h"
#include "tests/gpu/verdict.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {
namespace {

constexpr absl::Duration kLong = absl::Seconds(90), kPinLimit = absl::Seconds(10);

class RawSender {
 public:
  RawSender(const NcclRank* rank, std::vector<DeviceExtent> extents) : rank_(rank), extents_(std::move(extents)) {}

  absl::Status CarryOut(const std::string& order, Line& line) {
    const std::vector<std::string> words = absl::StrSplit(order, ' ');
    int number = 0;
    if (words.size() != 2 || !absl::SimpleAtoi(words[1], &number)) return absl::InternalError(absl::StrCat("?", order));
    if (words[0] == "raw") return Open(number, line);
    line.Say("moving");
    return raw_->Move(extents_, number);
  }

 private:
  absl::Status Open(int max_ctas, Line& line) {
    raw_.reset();
    nccl::UniqueId id;
    if (rank_->library->get_unique_id(&id) != nccl::kSuccess) return absl::UnavailableError("ncclGetUniqueId");
    line.Say(absl::StrCat("id ", absl::BytesToHexString(absl::string_view(id.bytes, sizeof(id.bytes)))));
    absl::StatusOr<std::unique_ptr<RawNccl>> raw = RawNccl::Open(*rank_->library, rank_->device.get(), id, 0, max_ctas);
    if (!raw.ok()) return raw.status();
    raw_ = *std::move(raw);
    return absl::OkStatus();
  }

  const NcclRank* const rank_;
  const std::vector<DeviceExtent> extents_;
  std::unique_ptr<RawNccl> raw_;
};

std::vector<DeviceExtent> ExtentsOf(DeviceBlocks& blocks, uint32_t count) {
  std::vector<DeviceExtent> extents;
  for (uint32_t i = 0; i < count; ++i) {
    const DeviceLookup lookup = *blocks.GetOnDevice(NumberedKey(i));
    extents.insert(extents.end(), lookup.pin->extents().begin(), lookup.pin->extents().end());
  }
  return extents;
}

}  // namespace

int RunNcclNode(const NcclSetup& setup, Line& line) {
  const absl::StatusOr<NcclRank> rank = OpenRank(setup, 0);
  if (!rank.ok()) return NotHere(std::string(rank.status().message()));
  PlacedBlocks blocks(rank->device.get());
  for (uint32_t i = 0; i < setup.blocks(); ++i) blocks.Add(NumberedKey(i), NumberedBytes(i, setup.size_of(i)));
  TransferLimits limits;
  limits.one_gpu = rank->one_gpu;
  TransferSessions sessions(rank->communicators.get(), &blocks, HostId(), limits);
  const std::unique_ptr<grpc::Service> service = NewTransferService(&sessions);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service.get());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return Wrong("the node cannot listen");
  line.Say(absl::StrCat("address 127.0.0.1:", port));

  RawSender raw(&*rank, ExtentsOf(blocks, setup.blocks()));
  absl::StatusOr<std::string> order = line.Hear(kLong);
  for (; order.ok() && *order != "end"; order = line.Hear(kLong)) {
    if (absl::Status status = raw.CarryOut(*order, line); !status.ok()) return Wrong(status.ToString());
  }
  server->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  const TransferSessions::Counts counts = sessions.counts();
  if (counts.failed > 0) return Wrong(absl::StrCat(counts.failed, " transfers failed at the node"));
  for (const absl::Time end = absl::Now() + kPinLimit; blocks.pins() > 0; absl::SleepFor(absl::Milliseconds(1))) {
    if (absl::Now() > end) return Wrong(absl::StrCat(blocks.pins(), " pins are left at the node"));
  }
  return kRight;
}

}  // namespace kvist::testing
