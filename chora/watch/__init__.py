"""Monitoring and watching: an uptime probe and a latency benchmarker, which call the server as any client does, and
a watcher of the project's files."""
