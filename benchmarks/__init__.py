"""Benchmarks: FedRED against plain loops that compute the same (`python -m benchmarks`)."""
