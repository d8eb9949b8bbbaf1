// Finding libnccl at run time: what is there, what is not, and what is too old, each said clearly. The real library, where
// a toolkit has brought one, answers for our declarations of it.
#include "services/transport/nccl/nccl_library.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/e2e/process.h"
#include "tests/services/transport/nccl/shim.h"

namespace kvist::testing {
namespace {

TEST(NcclLibraryTest, AbsenceIsNotFoundAndSaysWhere) {
  const auto library = NcclLibrary::Load("/nowhere/libnccl.so.2");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(library.status().message().find("/nowhere/libnccl.so.2"), std::string::npos) << library.status();
}

TEST(NcclLibraryTest, AMissingEntryPointIsNamed) {
  const auto library = NcclLibrary::Load(Runfile("tests/nccl_shim/libnccl_shim_without_finalize.so"));
  EXPECT_EQ(library.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(library.status().message().find("ncclCommFinalize"), std::string::npos) << library.status();
}

TEST(NcclLibraryTest, ALibraryThatIsTooOldIsRefusedByItsVersion) {
  Shim shim;
  shim.Set("version", 2708);
  const auto library = NcclLibrary::Load(shim.path());
  EXPECT_EQ(library.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(library.status().message().find("NCCL 2.7.8; at least 2.18.0"), std::string::npos) << library.status();
}

TEST(NcclLibraryTest, TheVersionIsKnownOnceLoaded) {
  Shim shim;
  EXPECT_EQ(NcclVersionName(shim.library()->version), "2.28.9");
}

TEST(NcclLibraryTest, TheRealLibraryHasEveryEntryPoint) {
  const std::string path = "/usr/local/cuda/lib64/libnccl.so.2";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no NCCL on this machine";
  const auto library = NcclLibrary::Load(path);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_GE((*library)->version, kOldestNcclVersion);
  EXPECT_STREQ((*library)->get_error_string(nccl::kInProgress), "NCCL operation in progress");
}

}  // namespace
}  // namespace kvist::testing
