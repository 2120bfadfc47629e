"""The stream processor: events in, scores out."""
