"""Labs: topologies and scenarios as data, network namespaces, traffic, checks and benchmarks."""
