"""One program for each peer, run with the Python of that peer's own environment; see `bench.peers.protocol`."""
