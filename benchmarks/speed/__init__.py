"""How fast it is, beside the movers and caches that people know: what ``python -m benchmarks`` runs."""
