// Rank 1: fetches the node's blocks through a DeviceLink, compares every byte, and measures the same bytes fetched and
// received raw, in turn.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/transport/nccl/device_link.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "tests/gpu/nccl_roles.h"
#include "tests/gpu/numbered.h"
#include "tests/gpu/raw_nccl.h"
#include "tests/gpu/verdict.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {
namespace {

constexpr absl::Duration kLong = absl::Seconds(40), kMeasured = absl::Seconds(3);
constexpr int kTurns = 3, kAtOnce = 2;  // with two at once, one's control passes while the other's bytes move

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

class NcclWorker {
 public:
  NcclWorker(const NcclSetup& setup, const NcclRank* rank, const std::string& address, Line* line)
      : setup_(setup), rank_(rank), line_(line), errands_(std::in_place, RealRuntime(), 2) {
    for (uint32_t i = 0; i < setup.blocks(); ++i) {
      keys_.push_back(NumberedKey(i));
      bytes_ += setup.size_of(i);
      room_bytes_ += (setup.size_of(i) + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
    }
    DeviceLinkOptions options;
    options.worker_id = absl::StrCat("nccl-check-", getpid());
    options.host_id = HostId();
    options.control_limit = kLong;
    link_.emplace(rank->communicators.get(), NewGrpcTransferControl(address), &*errands_, options);
  }
  ~NcclWorker() {
    link_.reset();
    errands_.reset();
  }

  absl::Status TakeMemory() {
    for (auto& memory : landings_) {
      absl::StatusOr<std::unique_ptr<DeviceMemory>> taken = rank_->device->Allocate(room_bytes_);
      if (!taken.ok()) return taken.status();
      memory = *std::move(taken);
    }
    return absl::OkStatus();
  }

  // The reason, if it does not open.
  absl::Status OpenLink() {
    for (const absl::Time end = absl::Now() + kLong; link_->state() != DeviceLink::State::kOpen;) {
      const bool over = link_->state() == DeviceLink::State::kRefused || absl::Now() > end;
      if (over) return link_->why().ok() ? absl::DeadlineExceededError("the link does not open") : link_->why();
      (void)Fetch(0);
      absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::OkStatus();
  }

  absl::Status Compare() {
    keys_.push_back(NumberedKey(uint32_t(keys_.size())));  // one that the node does not have
    const absl::StatusOr<Fetched> fetched = Fetch(0);
    keys_.pop_back();
    if (!fetched.ok()) return fetched.status();
    for (uint32_t i = 0; i < setup_.blocks(); ++i) {
      const FetchedBlock& block = fetched->blocks[i];
      if (block.extent.size_bytes != setup_.size_of(i)) return absl::DataLossError(absl::StrCat("block ", i, ": size"));
      const auto bytes = ReadBytes(*rank_->device, block.extent.address, block.extent.size_bytes);
      if (!bytes.ok()) return bytes.status();
      if (*bytes != NumberedBytes(i, setup_.size_of(i))) return absl::DataLossError(absl::StrCat("block ", i));
    }
    const bool missed = fetched->blocks.back().miss == v1::MISS_REASON_NEVER_STORED;
    return missed ? absl::OkStatus() : absl::DataLossError("a block that was never stored is no miss");
  }

  // GB/s of fetches, so many at once.
  absl::StatusOr<double> MeasureFetches(int at_once) {
    std::vector<std::thread> threads;
    std::array<absl::Status, kAtOnce> ends;
    const absl::Time begin = absl::Now();
    for (int i = 0; i < at_once; ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < rounds_ / at_once && ends[i].ok(); ++round) ends[i] = Fetch(i).status();
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    for (const absl::Status& end : ends) {
      if (!end.ok()) return end;
    }
    return double(bytes_) * rounds_ / seconds / 1e9;
  }

  absl::Status OpenRaw(int max_ctas) {
    raw_.reset();
    const absl::StatusOr<std::string> answer = Ask(absl::StrCat("raw ", max_ctas));
    if (!answer.ok()) return answer.status();
    const std::string bytes = absl::HexStringToBytes(answer->substr(3));
    nccl::UniqueId id;
    if (bytes.size() != sizeof(id.bytes)) return absl::InternalError("no id of the node");
    std::memcpy(id.bytes, bytes.data(), bytes.size());
    auto raw = RawNccl::Open(*rank_->library, rank_->device.get(), id, 1, max_ctas);
    if (!raw.ok()) return raw.status();
    raw_ = *std::move(raw);
    return absl::OkStatus();
  }

  // The first round brings both ends together and is not counted.
  absl::StatusOr<double> MeasureRaw() {
    const absl::StatusOr<std::string> answer = Ask(absl::StrCat("move ", 1 + rounds_));
    if (!answer.ok()) return answer.status();
    std::vector<DeviceExtent> extents;
    DeviceAddress at = landings_[0]->base();
    for (uint32_t i = 0; i < setup_.blocks(); ++i) {
      for (const DeviceExtent& piece : PiecesAt(at, setup_.size_of(i))) extents.push_back(piece);
      at = at + (setup_.size_of(i) + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
    }
    if (absl::Status status = raw_->Move(extents, 1); !status.ok()) return status;
    const absl::Time begin = absl::Now();
    if (absl::Status status = raw_->Move(extents, rounds_); !status.ok()) return status;
    return double(bytes_) * rounds_ / absl::ToDoubleSeconds(absl::Now() - begin) / 1e9;
  }

  // A measurement takes about kMeasured, since two processes that share one GPU may be slow. An even number of rounds.
  absl::Status ChooseRounds() {
    const absl::Time begin = absl::Now();
    const absl::Status status = Fetch(0).status();
    rounds_ = std::clamp(int(kMeasured / (absl::Now() - begin)) / kAtOnce * kAtOnce, kAtOnce, setup_.rounds());
    return status;
  }

  absl::StatusOr<nlohmann::json> Measure() {
    if (absl::Status status = ChooseRounds(); !status.ok()) return status;
    const auto alone = MeasureFetches(1);
    if (!alone.ok()) return alone.status();
    std::vector<double> fetched, raw;
    if (absl::Status status = OpenRaw(rank_->communicators->limits().max_ctas); !status.ok()) return status;
    for (int turn = 0; turn < kTurns; ++turn) {
      const auto of_fetches = MeasureFetches(kAtOnce);
      if (!of_fetches.ok()) return of_fetches.status();
      const auto of_raw = MeasureRaw();
      if (!of_raw.ok()) return of_raw.status();
      fetched.push_back(*of_fetches);
      raw.push_back(*of_raw);
    }
    if (absl::Status status = OpenRaw(0); !status.ok()) return status;
    const auto unbounded = MeasureRaw();
    if (!unbounded.ok()) return unbounded.status();
    return nlohmann::json{{"fetched_gb_per_s", Median(fetched)},
                          {"raw_gb_per_s", Median(raw)},
                          {"one_at_a_time_gb_per_s", *alone},
                          {"raw_unbounded_gb_per_s", *unbounded},
                          {"bytes", bytes_},
                          {"rounds", rounds_},
                          {"extents", 2 * setup_.blocks()},
                          {"gpu", rank_->device->description().name},
                          {"one_gpu", rank_->one_gpu},
                          {"nccl", NcclVersionName(rank_->library->version)}};
  }

 private:
  absl::StatusOr<Fetched> Fetch(int landing) {
    return link_->Fetch(
        keys_,
        [&](uint64_t size_bytes) -> absl::StatusOr<Landing> {
          if (size_bytes > room_bytes_) return absl::ResourceExhaustedError("the landing is too small");
          return Landing{landings_[landing]->base(), landings_[landing]};
        },
        absl::Now() + kLong);
  }
  absl::StatusOr<std::string> Ask(const std::string& order) {
    line_->Say(order);
    return line_->Hear(kLong);
  }

  const NcclSetup setup_;
  const NcclRank* const rank_;
  Line* const line_;
  std::vector<Key> keys_;
  uint64_t bytes_ = 0, room_bytes_ = 0;
  int rounds_ = 0;
  std::array<std::shared_ptr<DeviceMemory>, kAtOnce> landings_;
  std::optional<ThreadPool> errands_;
  std::optional<DeviceLink> link_;
  std::unique_ptr<RawNccl> raw_;
};

}  // namespace

int RunNcclWorker(const NcclSetup& setup, const std::string& address, Line& line) {
  const absl::StatusOr<NcclRank> rank = OpenRank(setup, 1);
  if (!rank.ok()) return NotHere(std::string(rank.status().message()));
  NcclWorker worker(setup, &*rank, address, &line);
  if (absl::Status status = worker.TakeMemory(); !status.ok()) return Wrong(status.ToString());
  if (absl::Status status = worker.OpenLink(); !status.ok()) {
    // What an NCCL says that will not have two ranks on a GPU, whatever it was told; no fault of ours.
    const bool refuses = rank->one_gpu && status.message().find("invalid usage") != std::string::npos;
    const std::string why(status.message());
    return refuses ? NotHere("this NCCL does not let two ranks share a GPU: " + why) : Wrong(why);
  }
  if (absl::Status status = worker.Compare(); !status.ok()) return Wrong(status.ToString());
  const absl::StatusOr<nlohmann::json> rates = worker.Measure();
  if (!rates.ok()) return Wrong(rates.status().ToString());
  line.Say("done " + rates->dump());
  return line.Hear(kLong).ok() ? kRight : Wrong("the parent has gone");
}

}  // namespace kvist::testing
