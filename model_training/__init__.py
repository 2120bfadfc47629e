"""The training job: compacted feature topics in, a registered model out."""
