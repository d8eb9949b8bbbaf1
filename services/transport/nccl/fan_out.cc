#include "services/transport/nccl/fan_out.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/nccl/pending.h"

namespace kvist {
namespace {

constexpr uint32_t kMagic = 0x4b564653;
constexpr uint64_t kMostBlockBytes = uint64_t{1} << 40;  // 256 of them do not wrap

// As it is broadcast, always whole. Both ends are little-endian: they have GPUs.
struct Header {
  uint32_t magic;
  uint32_t count;
  uint64_t number;
  struct Block {
    uint64_t size_bytes;
    uint32_t miss;  // v1::MissReason
    uint32_t elsewhere;
  } blocks[kMostSharedBlocks];
};

// The version in front of NCCL's id, so that another NCCL is refused with a word and not by a hang.
struct Ticket {
  uint32_t magic = kMagic;
  int32_t nccl_version = 0;
  nccl::UniqueId id;
};

uint64_t Aligned(uint64_t size_bytes) {
  return (size_bytes + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
}

std::vector<DeviceExtent> ExtentsOf(const Fetched& fetched) {
  std::vector<DeviceExtent> extents;
  for (const FetchedBlock& block : fetched.blocks) {
    if (block.extent.size_bytes > 0) extents.push_back(block.extent);
  }
  return extents;
}

}  // namespace

struct FanOut::Parts {
  std::shared_ptr<DeviceMemory> header;
  std::unique_ptr<PinnedMemory> pinned;
  std::unique_ptr<Stream> copies;
  std::shared_ptr<Communicator> communicator;
};

FanOut::FanOut(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

FanOut::~FanOut() { parts_->communicator->Close(); }

absl::StatusOr<std::unique_ptr<FanOut::Parts>> FanOut::Prepare(Device* device) {
  auto parts = std::make_unique<Parts>();
  absl::StatusOr<std::unique_ptr<DeviceMemory>> header = device->Allocate(sizeof(Header));
  if (!header.ok()) return header.status();
  absl::StatusOr<std::unique_ptr<PinnedMemory>> pinned = device->AllocatePinned(sizeof(Header));
  if (!pinned.ok()) return pinned.status();
  absl::StatusOr<std::unique_ptr<Stream>> copies = device->NewStream();
  if (!copies.ok()) return copies.status();
  parts->header = *std::move(header);
  parts->pinned = *std::move(pinned);
  parts->copies = *std::move(copies);
  return parts;
}

absl::StatusOr<std::unique_ptr<FanOut>> FanOut::Lead(Communicators* communicators, int ranks,
                                                     std::function<void(absl::StatusOr<std::string>)> on_ticket) {
  absl::StatusOr<std::unique_ptr<Parts>> parts = Prepare(communicators->device());
  if (!parts.ok()) return parts.status();
  auto on_id = [on_ticket, version = communicators->library().version](absl::StatusOr<nccl::UniqueId> id) {
    if (!id.ok()) return on_ticket(id.status());
    Ticket ticket;
    ticket.nccl_version = version;
    ticket.id = *id;
    on_ticket(std::string(reinterpret_cast<const char*>(&ticket), sizeof(ticket)));
  };
  absl::StatusOr<std::shared_ptr<Communicator>> communicator =
      communicators->Open({0, ranks, std::nullopt, std::move(on_id)});
  if (!communicator.ok()) return communicator.status();
  (*parts)->communicator = *std::move(communicator);
  return std::unique_ptr<FanOut>(new FanOut(*std::move(parts)));
}

absl::StatusOr<std::unique_ptr<FanOut>> FanOut::Join(Communicators* communicators, const std::string& ticket_bytes,
                                                     int rank, int ranks) {
  Ticket ticket;
  if (ticket_bytes.size() != sizeof(ticket)) return absl::InvalidArgumentError("this is no ticket of a group");
  std::memcpy(&ticket, ticket_bytes.data(), sizeof(ticket));
  if (ticket.magic != kMagic) return absl::InvalidArgumentError("this is no ticket of a group");
  const int ours = communicators->library().version;
  if (ticket.nccl_version != ours) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL ", NcclVersionName(ours), " here, ",
                                                      NcclVersionName(ticket.nccl_version),
                                                      " at rank 0: all must load the same"));
  }
  if (rank <= 0 || rank >= ranks) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " does not join a group of ", ranks));
  }
  absl::StatusOr<std::unique_ptr<Parts>> parts = Prepare(communicators->device());
  if (!parts.ok()) return parts.status();
  absl::StatusOr<std::shared_ptr<Communicator>> communicator = communicators->Open({rank, ranks, ticket.id, nullptr});
  if (!communicator.ok()) return communicator.status();
  (*parts)->communicator = *std::move(communicator);
  return std::unique_ptr<FanOut>(new FanOut(*std::move(parts)));
}

absl::Status FanOut::Give(const Fetched& fetched, absl::Time deadline) {
  if (fetched.blocks.size() > kMostSharedBlocks) {
    return absl::InvalidArgumentError(absl::StrCat(fetched.blocks.size(), " blocks; at most ", kMostSharedBlocks));
  }
  return Ended(GiveAll(fetched, deadline));
}

absl::StatusOr<Fetched> FanOut::Take(const TakeLanding& take, absl::Time deadline) {
  absl::StatusOr<Fetched> taken = TakeAll(take, deadline);
  if (absl::Status status = Ended(taken.status()); !status.ok()) return status;
  return taken;
}

// A rank that fails leaves the others in the middle of a collective: only an abort frees them.
absl::Status FanOut::Ended(absl::Status status) {
  if (!status.ok()) parts_->communicator->Abort(status);
  return status;
}

absl::Status FanOut::GiveAll(const Fetched& fetched, absl::Time deadline) {
  WriteHeader(fetched);
  absl::Status status = parts_->copies->CopyToDevice(parts_->header->base(), parts_->pinned->bytes());
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DeviceEvent>> written = parts_->copies->Record();
  if (!written.ok()) return written.status();
  status = Broadcast({{parts_->header->base(), sizeof(Header)}}, parts_->header, *std::move(written), deadline);
  if (!status.ok()) return status;
  ++number_;
  std::vector<DeviceExtent> extents = ExtentsOf(fetched);
  return extents.empty() ? absl::OkStatus() : Broadcast(std::move(extents), fetched.hold, nullptr, deadline);
}

absl::StatusOr<Fetched> FanOut::TakeAll(const TakeLanding& take, absl::Time deadline) {
  absl::Status status = Broadcast({{parts_->header->base(), sizeof(Header)}}, parts_->header, nullptr, deadline);
  if (!status.ok()) return status;
  status = parts_->copies->CopyToHost(parts_->pinned->bytes(), parts_->header->base());
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DeviceEvent>> read = parts_->copies->Record();
  if (!read.ok()) return read.status();
  if (status = Await(**read, deadline - absl::Now()); !status.ok()) return status;
  absl::StatusOr<Fetched> fetched = ReadHeader();
  if (!fetched.ok()) return fetched;
  ++number_;
  uint64_t total = 0;
  for (const FetchedBlock& block : fetched->blocks) total += Aligned(block.extent.size_bytes);
  if (total == 0) return fetched;
  absl::StatusOr<Landing> landing = take(total);
  if (!landing.ok()) return landing.status();
  fetched->hold = landing->hold;
  DeviceAddress next = landing->address;
  for (FetchedBlock& block : fetched->blocks) {
    block.extent.address = next;
    next = next + Aligned(block.extent.size_bytes);
  }
  if (status = Broadcast(ExtentsOf(*fetched), landing->hold, nullptr, deadline); !status.ok()) return status;
  return fetched;
}

void FanOut::WriteHeader(const Fetched& fetched) {
  Header header = {};
  header.magic = kMagic;
  header.count = uint32_t(fetched.blocks.size());
  header.number = number_;
  for (size_t i = 0; i < fetched.blocks.size(); ++i) {
    const FetchedBlock& block = fetched.blocks[i];
    header.blocks[i] = {block.extent.size_bytes, uint32_t(block.miss), block.elsewhere ? 1u : 0u};
  }
  std::memcpy(parts_->pinned->bytes().data(), &header, sizeof(header));
}

absl::StatusOr<Fetched> FanOut::ReadHeader() const {
  Header header;
  std::memcpy(&header, parts_->pinned->bytes().data(), sizeof(header));
  if (header.magic != kMagic || header.number != number_ || header.count > kMostSharedBlocks) {
    return absl::DataLossError(
        absl::StrCat("the group is out of step: fetch ", header.number, " came where ", number_, " was expected"));
  }
  Fetched fetched;
  for (uint32_t i = 0; i < header.count; ++i) {
    if (header.blocks[i].size_bytes > kMostBlockBytes) return absl::DataLossError("a block of an impossible size");
    fetched.blocks.push_back(
        {v1::MissReason(header.blocks[i].miss), header.blocks[i].elsewhere != 0, {{}, header.blocks[i].size_bytes}});
  }
  return fetched;
}

absl::Status FanOut::Broadcast(std::vector<DeviceExtent> extents, std::shared_ptr<void> hold,
                               std::shared_ptr<DeviceEvent> after, absl::Time deadline) {
  Pending pending;
  Operation operation;
  operation.kind = Operation::Kind::kBroadcast;
  operation.peer = 0;
  operation.extents = std::move(extents);
  operation.after = std::move(after);
  operation.hold = std::move(hold);
  operation.deadline = deadline;
  operation.done = pending.Done();
  parts_->communicator->Submit(std::move(operation));
  return pending.Wait(deadline);
}

}  // namespace kvist
