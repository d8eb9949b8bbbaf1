#include "services/node/process_figures.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace kvist {
namespace {

double CpuSeconds() {
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double all = 0, resident = 0;
  statm >> all >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenFiles() {
  std::error_code unreadable;
  double files = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", unreadable);
       !unreadable && entry != std::filesystem::directory_iterator(); entry.increment(unreadable)) {
    ++files;
  }
  return files;
}

double MaxFiles() {
  rlimit limit;
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<double>(limit.rlim_cur) : 0;
}

// Since the epoch: the machine's start, and the process's field 22 in ticks after it.
double StartSeconds() {
  std::ifstream stat("/proc/self/stat"), machine("/proc/stat");
  std::string word;
  for (int field = 1; field <= 22 && stat >> word; ++field) {
  }
  const double ticks = std::strtod(word.c_str(), nullptr);
  double boot = 0;
  while (machine >> word && word != "btime") {
  }
  machine >> boot;
  return boot + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

void AddProcessFigures(Metrics* metrics) {
  using Kind = Metrics::Kind;
  metrics->AddFigure(Kind::kCounter, "process_cpu_seconds_total", "User and system CPU time.", {}, CpuSeconds);
  metrics->AddFigure(Kind::kGauge, "process_resident_memory_bytes", "Resident memory.", {}, ResidentBytes);
  metrics->AddFigure(Kind::kGauge, "process_open_fds", "Open file descriptors.", {}, OpenFiles);
  metrics->AddFigure(Kind::kGauge, "process_max_fds", "Most file descriptors that may be open.", {}, MaxFiles);
  const double start = StartSeconds();
  metrics->AddFigure(Kind::kGauge, "process_start_time_seconds", "When the process started, since the epoch.", {},
                     [start] { return start; });
}

}  // namespace kvist
