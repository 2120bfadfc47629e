"""The HTTP API: a process of its own that reads what the workers write, and publishes what hospitals send."""
