"""Benchmarks: ratios measured in one run, printed with the machine they ran on. Never run as timed tests."""
