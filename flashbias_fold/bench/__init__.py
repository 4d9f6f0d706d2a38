"""Benchmarks, each a folder; what they share (timing, the machine, charts) lies beside them."""
