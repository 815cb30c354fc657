"""Peers on the same workload, each installed from the registry into an environment of its own, which is removed afterwards."""
