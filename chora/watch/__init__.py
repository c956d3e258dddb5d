"""Watching ourselves from outside: an uptime probe and a latency benchmarker that come in through the public door."""
