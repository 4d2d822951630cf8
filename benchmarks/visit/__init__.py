"""One visit to a GPU: see `python -m benchmarks.visit --help` and docs/howto/gpu-visit.md."""
