"""Models that run here, each in numpy alone: for the demo, for tests, and for `kvist eval`."""
