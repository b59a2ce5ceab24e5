"""The operator against a hollow cluster, with faults between it and the API server."""
