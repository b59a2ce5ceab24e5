"""A kind cluster: on this machine's Docker engine, or where there is none on one of its own, from registries alone."""
