"""Measure the pipeline against the worker that a first try would be: `make bench`."""
