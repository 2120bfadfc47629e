"""The entry points: command line, local stack, demo."""
