// Goal: the simulated runtime keeps the contract of Runtime, is the same run for the same seed, and names what hangs.
// Method: small programs over Runtime, as fibers; what ends the process is run in a child of the test (EXPECT_EXIT).
#include "tests/simulation/sim_runtime.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "services/runtime/thread_pool.h"
#include "services/runtime/wait.h"

namespace kvist::simulation {
namespace {

SchedulerOptions Seed(uint64_t seed) {
  SchedulerOptions options;
  options.seed = seed;
  return options;
}

// The order in which four threads write their number three times.
std::string OrderOf(uint64_t seed, uint64_t* trace_hash) {
  Scheduler scheduler(Seed(seed));
  std::string order;
  scheduler.Run([&] {
    std::vector<std::unique_ptr<Thread>> threads;
    for (char name = 'a'; name < 'e'; ++name) {
      threads.push_back(scheduler.world()->Start([&, name] {
        for (int i = 0; i < 3; ++i) {
          order += name;
          scheduler.Yield();
        }
      }));
    }
  });
  *trace_hash = scheduler.trace_hash();
  return order;
}

TEST(SimRuntime, TheSameSeedIsTheSameRunAndOthersDiffer) {
  std::set<std::string> orders;
  std::set<uint64_t> hashes;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    uint64_t first = 0, second = 0;
    const std::string order = OrderOf(seed, &first);
    EXPECT_EQ(OrderOf(seed, &second), order) << "seed " << seed;
    EXPECT_EQ(first, second) << "seed " << seed;
    EXPECT_EQ(order.size(), 12);
    orders.insert(order);
    hashes.insert(first);
  }
  EXPECT_GT(orders.size(), 15);
  EXPECT_EQ(hashes.size(), 20);
}

TEST(SimRuntime, TheClockStandsStillWhileSomebodyRunsAndJumpsToTheNextTimer) {
  Scheduler scheduler(Seed(1));
  scheduler.Run([&] {
    const absl::Time begin = scheduler.now();
    std::vector<absl::Duration> woke;
    {
      std::vector<std::unique_ptr<Thread>> threads;
      for (const int hours : {3, 1, 2}) {
        threads.push_back(scheduler.world()->Start([&, hours] {
          scheduler.world()->SleepUntil(begin + absl::Hours(hours));
          woke.push_back(scheduler.now() - begin);
        }));
      }
      for (int i = 0; i < 100; ++i) scheduler.Yield();
      EXPECT_EQ(scheduler.now(), begin);
    }
    ASSERT_EQ(woke.size(), 3);
    for (int i = 0; i < 3; ++i) EXPECT_LT(woke[i] - absl::Hours(i + 1), absl::Microseconds(1));
  });
}

TEST(SimRuntime, AConditionWakesOneOrAllAndEndsAtItsDeadline) {
  Scheduler scheduler(Seed(2));
  scheduler.Run([&] {
    SimHost* const host = scheduler.world();
    const std::unique_ptr<Condition> condition = host->NewCondition();
    std::mutex mutex;
    int woken = 0, late = 0, tickets = 0;
    const absl::Time deadline = host->Now() + absl::Seconds(10);
    std::vector<std::unique_ptr<Thread>> threads;
    for (int i = 0; i < 8; ++i) {
      threads.push_back(host->Start([&] {
        std::unique_lock lock(mutex);
        const bool held = condition->WaitUntil(lock, deadline, [&] { return tickets > 0; });
        if (held) --tickets;
        ++(held ? woken : late);
      }));
    }
    host->SleepUntil(host->Now() + absl::Seconds(1));
    {
      std::lock_guard lock(mutex);
      tickets = 1;
    }
    condition->NotifyOne();
    host->SleepUntil(host->Now() + absl::Seconds(1));
    EXPECT_EQ(woken, 1);
    {
      std::lock_guard lock(mutex);
      tickets = 3;
    }
    condition->NotifyAll();
    host->SleepUntil(host->Now() + absl::Seconds(1));
    EXPECT_EQ(woken, 4);
    threads.clear();
    EXPECT_EQ(late, 4);
    EXPECT_GE(host->Now(), deadline);
    EXPECT_LT(host->Now(), deadline + absl::Milliseconds(1));
  });
}

TEST(SimRuntime, WaitsEndForNoReasonIfToldSo) {
  SchedulerOptions options = Seed(3);
  options.spurious = 1;
  Scheduler scheduler(options);
  scheduler.Run([&] {
    const std::unique_ptr<Condition> condition = scheduler.world()->NewCondition();
    std::mutex mutex;
    std::unique_lock lock(mutex);
    EXPECT_TRUE(condition->WaitUntil(lock, scheduler.world()->Now() + absl::Hours(1)));
  });
}

TEST(SimRuntime, HostsHaveClocksOfTheirOwn) {
  Scheduler scheduler(Seed(4));
  SimHost* const early = scheduler.AddHost("early", -absl::Minutes(5), 0);
  SimHost* const fast = scheduler.AddHost("fast", absl::Hours(1), 1e-3);
  scheduler.Run([&] {
    const absl::Time true_time = scheduler.world()->Now();
    EXPECT_EQ(early->Now(), true_time - absl::Minutes(5));
    EXPECT_EQ(fast->Now(), true_time + absl::Hours(1));
    const absl::Time wake = fast->Now() + absl::Seconds(1000);
    fast->SleepUntil(wake);
    EXPECT_GE(fast->Now(), wake);
    EXPECT_LT(fast->Now(), wake + absl::Milliseconds(1));
    EXPECT_NEAR(absl::ToDoubleSeconds(scheduler.world()->Now() - true_time), 999.0, 0.1);
  });
}

TEST(SimRuntime, AStoppedHostDoesNothingUntilItGoesOn) {
  Scheduler scheduler(Seed(5));
  SimHost* const host = scheduler.AddHost("stopped");
  scheduler.Run([&] {
    int ticks = 0;
    const std::unique_ptr<Thread> thread = host->Start([&] {
      for (; ticks < 20; ++ticks) host->SleepUntil(host->Now() + absl::Seconds(1));
    });
    scheduler.Sleep(absl::Milliseconds(5500));
    EXPECT_EQ(ticks, 5);
    host->Freeze();
    scheduler.Sleep(absl::Seconds(30));
    EXPECT_EQ(ticks, 5);
    host->Thaw();
    scheduler.Sleep(absl::Milliseconds(100));
    EXPECT_EQ(ticks, 6);
  });
}

TEST(SimRuntime, CriticalSectionsMixButNeverOverlap) {
  SchedulerOptions options = Seed(6);
  options.preempt = 0.5;
  Scheduler scheduler(options);
  scheduler.Run([&] {
    std::mutex outer, inner;
    int inside = 0, most = 0, tries = 0, changes = 0, last = -1;
    {
      std::vector<std::unique_ptr<Thread>> threads;
      for (int name = 0; name < 4; ++name) {
        threads.push_back(scheduler.world()->Start([&, name] {
          for (int i = 0; i < 50; ++i) {
            std::lock_guard lock(outer);
            most = std::max(most, ++inside);
            changes += std::exchange(last, name) != name;
            std::lock_guard second(inner);  // may give way while it holds `outer`
            --inside;
            ++tries;
          }
        }));
      }
    }
    EXPECT_EQ(tries, 200);
    EXPECT_EQ(most, 1);
    EXPECT_GT(changes, 20);
  });
}

TEST(SimRuntime, PoolsAndGathersOfTheServicesRunOnIt) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SchedulerOptions options = Seed(seed);
    options.preempt = 0.2;
    options.spurious = 0.05;
    Scheduler scheduler(options);
    scheduler.Run([&] {
      SimHost* const host = scheduler.world();
      ThreadPool pool(host, 3);
      std::vector<std::function<int()>> tasks;
      for (int i = 0; i < 6; ++i) {
        tasks.push_back([host, i] {
          host->SleepUntil(host->Now() + absl::Milliseconds(i < 5 ? i : 10'000));
          return i;
        });
      }
      const auto results = Gather<int>(
          host, [&](size_t, std::function<void()> task) { return pool.Submit(std::move(task)), true; },
          std::move(tasks), host->Now() + absl::Seconds(1));
      for (int i = 0; i < 5; ++i) EXPECT_EQ(results[i], i) << "seed " << seed;
      EXPECT_FALSE(results[5].has_value()) << "seed " << seed;
    });
  }
}

void RunInChild(const SchedulerOptions& options, const std::function<void(Scheduler*)>& body) {
  Scheduler scheduler(options);
  scheduler.Run([&] { body(&scheduler); });
}

TEST(SimRuntimeDeathTest, ADeadlockNamesSeedAndWhoWaitsWhere) {
  SchedulerOptions options = Seed(77);
  options.replay = "simulate --seed 77";
  EXPECT_EXIT(RunInChild(options,
                         [](Scheduler* scheduler) {
                           std::mutex mutex;
                           const auto condition = scheduler->world()->NewCondition();
                           std::unique_lock lock(mutex);
                           condition->WaitUntil(lock, absl::InfiniteFuture());
                         }),
              ::testing::ExitedWithCode(1),
              "seed 77: deadlock(.|\n)*\\(first\\) of world: waits for a Condition(.|\n)*replay: simulate --seed 77");
}

TEST(SimRuntimeDeathTest, MutexesTakenInTwoOrdersAreADeadlock) {
  SchedulerOptions options = Seed(5);
  options.preempt = 0.5;
  EXPECT_EXIT(RunInChild(options,
                         [](Scheduler* scheduler) {
                           std::mutex a, b;
                           const auto take = [](std::mutex* first, std::mutex* second) {
                             for (int i = 0; i < 100; ++i) {
                               std::lock_guard lock(*first);
                               std::lock_guard both(*second);
                             }
                           };
                           const auto other = scheduler->world()->Start([&] { take(&a, &b); });
                           take(&b, &a);
                         }),
              ::testing::ExitedWithCode(1), "deadlock(.|\n)*waits for a mutex");
}

TEST(SimRuntimeDeathTest, AWaitUnderAMutexIsAFault) {
  EXPECT_EXIT(RunInChild(Seed(1),
                         [](Scheduler* scheduler) {
                           std::mutex mutex;
                           std::lock_guard lock(mutex);
                           scheduler->Sleep(absl::Seconds(1));
                         }),
              ::testing::ExitedWithCode(1), "waits for a sleep while it holds a mutex");
}

TEST(SimRuntimeDeathTest, AFiberThatNeverGivesWayIsAFault) {
  SchedulerOptions options = Seed(1);
  options.watchdog = absl::Milliseconds(300);
  EXPECT_EXIT(RunInChild(options,
                         [](Scheduler*) {
                           for (std::atomic<int> i = 0;; ++i) {
                           }
                         }),
              ::testing::ExitedWithCode(1), "a fiber runs for too long");
}

TEST(SimRuntimeDeathTest, TimeThatDoesNotPassIsAFault) {
  SchedulerOptions options = Seed(1);
  options.max_switches = 1000;
  EXPECT_EXIT(RunInChild(options,
                         [](Scheduler* scheduler) {
                           while (true) scheduler->Yield();
                         }),
              ::testing::ExitedWithCode(1), "time does not pass");
}

TEST(SimRuntimeDeathTest, TooMuchVirtualTimeIsAFault) {
  SchedulerOptions options = Seed(1);
  options.max_time = absl::Minutes(1);
  EXPECT_EXIT(RunInChild(options,
                         [](Scheduler* scheduler) {
                           while (true) scheduler->Sleep(absl::Seconds(1));
                         }),
              ::testing::ExitedWithCode(1), "too much virtual time");
}

TEST(SimRuntimeDeathTest, AFiberThatOutlivesTheFirstIsAFault) {
  EXPECT_EXIT(RunInChild(Seed(1),
                         [](Scheduler* scheduler) {
                           scheduler->world()->Spawn("forgotten", [scheduler] { scheduler->Sleep(absl::Hours(1)); });
                         }),
              ::testing::ExitedWithCode(1), "others have not(.|\n)*\\(forgotten\\)");
}

}  // namespace
}  // namespace kvist::simulation
