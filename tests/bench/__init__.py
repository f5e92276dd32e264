"""Benchmarks: the real parts as separate processes, the log on disk, a peer in the same run. `hivectl bench NAME`."""
