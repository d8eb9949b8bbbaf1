// Goal: what was recorded last is what is found, within the bound. Method: keys that are recorded, forgotten and recorded
// again, at the bound and past it, on a clock that stands still.
#include "services/worker/locations.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/services/testing/manual_runtime.h"

namespace kvist {
namespace {

Key Head(uint64_t number) {
  Key key{};
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

class LocationsTest : public ::testing::Test {
 protected:
  void Record(uint64_t head, const std::string& found = "n1") { locations_.Record(Head(head), {found, {}}); }
  std::string Found(uint64_t head) { return locations_.Find(Head(head)).value_or(Location{"nobody", {}}).found; }

  testing::ManualRuntime runtime_;
  Locations locations_{&runtime_};
};

TEST_F(LocationsTest, TheOldestGoesWhenThereAreTooMany) {
  for (uint64_t head = 0; head <= Locations::kMaxEntries; ++head) Record(head);
  EXPECT_EQ(Found(0), "nobody");
  EXPECT_EQ(Found(1), "n1");
  EXPECT_EQ(Found(Locations::kMaxEntries), "n1");
}

TEST_F(LocationsTest, AKeyThatWasForgottenAndCameBackIsAsYoungAsItsReturn) {
  Record(0);
  Record(1);
  locations_.Forget(Head(0));
  EXPECT_EQ(Found(0), "nobody");
  for (uint64_t head = 2; head <= Locations::kMaxEntries; ++head) Record(head);
  Record(0, "n2");  // the first one too many: what goes is the oldest, not itself
  EXPECT_EQ(Found(0), "n2");
  EXPECT_EQ(Found(1), "nobody");
  Record(Locations::kMaxEntries + 1);
  EXPECT_EQ(Found(0), "n2");
}

TEST_F(LocationsTest, NothingIsKeptForLong) {
  Record(0);
  EXPECT_FALSE(locations_.empty());
  runtime_.Advance(absl::Seconds(10));
  EXPECT_EQ(Found(0), "nobody");
  EXPECT_TRUE(locations_.empty());
}

TEST_F(LocationsTest, AnOwnerIsAskedToAdoptASegmentEveryFiveSeconds) {
  EXPECT_TRUE(locations_.TakeAdoption(Head(0)));
  EXPECT_FALSE(locations_.TakeAdoption(Head(0)));
  EXPECT_TRUE(locations_.TakeAdoption(Head(1)));
  runtime_.Advance(absl::Seconds(5));
  EXPECT_TRUE(locations_.TakeAdoption(Head(0)));
}

}  // namespace
}  // namespace kvist
