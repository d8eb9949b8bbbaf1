#include "cachestore/tier_mover.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace kvist {
namespace {

constexpr std::chrono::milliseconds kLook(200);  // between two looks at the health of an idle device
constexpr std::chrono::milliseconds kRefill(1);  // between two looks at an empty bucket
constexpr size_t kCandidates = 64;               // for demotion, seen at once
constexpr uint64_t kLargestSlice = uint64_t{4} << 20;

}  // namespace

// Known to Forget from before its source is pinned until after it is published or given up.
class TierMover::Registered {
 public:
  Registered(TierMover* mover, const Key& key) : mover_(mover), move_{.key = key} {
    std::lock_guard<std::mutex> lock(mover_->mutex_);
    mover_->moving_.push_back(&move_);
  }
  ~Registered() {
    std::lock_guard<std::mutex> lock(mover_->mutex_);
    std::erase(mover_->moving_, &move_);
  }
  const Move& move() const { return move_; }

 private:
  TierMover* const mover_;
  Move move_;
};

TierMover::TierMover(HostTier* host, DeviceTier* device, const MoveRules& rules,
                     std::function<void(const absl::Status&)> on_outcome)
    : host_(host->core()),
      device_(device),
      rules_(rules),
      on_outcome_(std::move(on_outcome)),
      max_block_bytes_(static_cast<uint64_t>(device->core()->capacity_bytes * rules.max_block_fraction)),
      kept_free_bytes_(static_cast<uint64_t>(device->core()->capacity_bytes * rules.kept_free_fraction)),
      hits_(std::max<size_t>(1, rules.remembered_hits), rules.hit_window),
      up_(rules.promoted_bytes_per_second, rules.burst_bytes),
      down_(rules.demoted_bytes_per_second, rules.burst_bytes) {}

void TierMover::Start() {
  thread_ = std::thread([this] { Run(); });
}

void TierMover::End() {
  Stop();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void TierMover::Stop() {
  std::lock_guard<std::mutex> lock(mutex_);
  stopped_ = true;
  figures_.dropped_moves += queue_.size();
  queue_.clear();
  room_taken_ = false;
  for (Move* move : moving_) move->called_off = true;
}

void TierMover::NoteHit(const Key& key, uint64_t size_bytes) {
  if (!hits_.IsSecond(key, host_->clock.Read())) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return;
    if (size_bytes > max_block_bytes_ || queue_.size() >= rules_.max_queued) {
      ++figures_.refused_promotions;
      return;
    }
    queue_.push_back(key);
  }
  wake_.notify_one();
}

void TierMover::NoteRoomTaken() {
  if (device_->core()->space->allocator().state().free_bytes >= kept_free_bytes_) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return;
    room_taken_ = true;
  }
  wake_.notify_one();
}

void TierMover::Forget(const Key& key) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Move* move : moving_) {
    if (move->key == key) move->called_off = true;
  }
}

bool TierMover::idle() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return queue_.empty() && !room_taken_ && !busy_;
}

TierMover::Figures TierMover::figures() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return figures_;
}

void TierMover::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ended_) {
    if (stopped_ || (queue_.empty() && !room_taken_)) {
      wake_.wait_for(lock, kLook);
      if (stopped_ || !queue_.empty() || room_taken_) continue;
      lock.unlock();
      if (absl::Status health = device_->device().Health(); !health.ok()) on_outcome_(health);
      lock.lock();
      continue;
    }
    if (!room_taken_ && !up_.MayTake(host_->clock.Read())) {
      wake_.wait_for(lock, kRefill);
      continue;
    }
    const bool room_taken = std::exchange(room_taken_, false);
    Key key;
    if (!room_taken) {
      key = queue_.front();
      queue_.pop_front();
    }
    busy_ = true;
    lock.unlock();
    room_taken ? DemoteAhead(kept_free_bytes_) : Promote(key);
    lock.lock();
    busy_ = false;
  }
}

void TierMover::Promote(const Key& key) {
  const Registered registered(this, key);
  CallTime time(&host_->clock);
  const Index::Found found = host_->index.Pin(key, time, /*touch=*/false, /*gone=*/nullptr);
  if (found.block == nullptr) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++figures_.dropped_moves;
    return;
  }
  const BlockRef pin(found.block);
  const Block& source = *found.block;
  DemoteAhead(std::max(source.charge_bytes(), kept_free_bytes_));
  auto place = device_->ReserveOnDevice(key, source.size_bytes(), source.traits());
  if (!place.ok()) {
    if (absl::IsAlreadyExists(place.status())) return;
    std::lock_guard<std::mutex> lock(mutex_);
    ++(absl::IsResourceExhausted(place.status()) ? figures_.refused_promotions : figures_.dropped_moves);
    return;
  }
  (*place)->written().block()->SetContent(source.content());
  up_.Take(source.size_bytes());
  const absl::Status copied = CopyUp(source, **place);
  on_outcome_(copied);
  if (!copied.ok()) {
    (*place)->Abandon();
    std::lock_guard<std::mutex> lock(mutex_);
    ++(absl::IsResourceExhausted(copied) ? figures_.refused_promotions : figures_.dropped_moves);
    return;
  }
  const bool published =
      Publish(registered.move(), source, *device_->core(), [&] { return (*place)->Commit(source.size_bytes()); });
  std::lock_guard<std::mutex> lock(mutex_);
  if (!published) {
    ++figures_.dropped_moves;
    return;
  }
  ++figures_.promoted_blocks;
  figures_.promoted_bytes += source.size_bytes();
}

void TierMover::DemoteAhead(uint64_t bytes) {
  const uint64_t free_bytes = device_->core()->space->allocator().state().free_bytes;
  if (free_bytes >= bytes) return;
  uint64_t missing = bytes - free_bytes;
  for (const Index::Evicted& next : device_->core()->index.NextToEvict(kCandidates)) {
    if (!HostHas(next.key) && !Demote(next.key)) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopped_) return;
      ++figures_.refused_demotions;
    }
    if (missing <= next.charge_bytes) return;
    missing -= next.charge_bytes;
  }
}

bool TierMover::Demote(const Key& key) {
  const Registered registered(this, key);
  CallTime time(&host_->clock);
  if (!down_.MayTake(time.Exact())) return false;
  const Index::Found found = device_->core()->index.Pin(key, time, /*touch=*/false, /*gone=*/nullptr);
  if (found.block == nullptr) return true;  // it is gone: nothing to save
  const std::shared_ptr<Block> source(found.block, UnpinDeleter());
  const absl::StatusOr<Block*> begun = host_->BeginBlock(key, source->size_bytes(), source->traits());
  if (!begun.ok()) return absl::IsAlreadyExists(begun.status());
  WrittenBlock written(host_, *begun);
  (*begun)->SetContent(source->content());
  down_.Take(source->size_bytes());
  const absl::Status copied = CopyDown(source, **begun);
  on_outcome_(copied);
  if (!copied.ok()) return false;
  const bool published = Publish(registered.move(), *source, *host_, [&] {
    (*begun)->place.moved = demotions_.load(std::memory_order_relaxed) + 1;
    absl::Status status = written.Publish(source->size_bytes());
    demotions_.fetch_add(1, std::memory_order_release);
    return status;
  });
  std::lock_guard<std::mutex> lock(mutex_);
  if (!published) {
    ++figures_.dropped_moves;
    return true;
  }
  ++figures_.demoted_blocks;
  figures_.demoted_bytes += source->size_bytes();
  return true;
}

bool TierMover::Publish(const Move& move, const Block& source, TierCore& target,
                        const std::function<absl::Status()>& publish) {
  CallTime time(&host_->clock);
  std::lock_guard<std::mutex> lock(mutex_);
  if (move.called_off || source.expires_ns() <= time.Exact()) return false;
  // A Reserve prolongs what it finds in either tier. What it did to the source before the name stood here, we do now.
  target.index.ProlongPresent(source.key(), source.traits(), time);
  return publish().ok();
}

uint64_t TierMover::SliceBytes() const { return std::min(kLargestSlice, device_->staging_bytes() / 2); }

absl::Status TierMover::CopyUp(const Block& from, DeviceReservation& to) {
  Staging& staging = device_->staging();
  uint64_t offset = 0;
  for (absl::Span<const uint8_t> piece : from.pieces()) {
    while (!piece.empty()) {
      const uint64_t slice = std::min<uint64_t>(piece.size(), SliceBytes());
      const Staging::BufferRef buffer = staging.Take(slice);
      if (buffer == nullptr) return absl::ResourceExhaustedError("no staging room for a promotion");
      buffer->Write(0, piece.subspan(0, slice));
      const Staging::Target target{device_->base(), &to.written().block()->extents(), offset, slice};
      if (absl::Status status = staging.CopyToDevice(target, buffer, to.Hold()); !status.ok()) return status;
      piece.remove_prefix(slice);
      offset += slice;
    }
  }
  return absl::OkStatus();
}

absl::Status TierMover::CopyDown(const std::shared_ptr<Block>& from, Block& to) {
  Staging& staging = device_->staging();
  for (uint64_t offset = 0; offset < from->size_bytes();) {
    const uint64_t slice = std::min(from->size_bytes() - offset, SliceBytes());
    const Staging::BufferRef buffer = staging.Take(slice);
    if (buffer == nullptr) return absl::ResourceExhaustedError("no staging room for a demotion");
    const Staging::Target source{device_->base(), &from->extents(), offset, slice};
    if (absl::Status status = staging.CopyToHost(buffer, source, from); !status.ok()) return status;
    for (const absl::Span<const uint8_t>& piece : buffer->pieces()) {
      to.CopyIn(offset, piece);
      offset += piece.size();
    }
  }
  return absl::OkStatus();
}

bool TierMover::HostHas(const Key& key) {
  CallTime time(&host_->clock);
  return host_->index.Probe(key, time).size_bytes > 0;
}

}  // namespace kvist
