// Channels over the simulated network. Internal to it.
#ifndef KVIST_TESTS_SIMULATION_SIM_CHANNEL_H_
#define KVIST_TESTS_SIMULATION_SIM_CHANNEL_H_

#include <memory>

#include "services/transport/transport.h"

namespace kvist::simulation {

class SimNetwork;
class SimProcess;

// What `process` calls others with.
std::unique_ptr<Transport> NewSimTransport(SimNetwork* network, SimProcess* process);

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_CHANNEL_H_
