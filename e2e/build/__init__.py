"""Builds the Kubernetes parts that the tests need, once per version, from the Go module proxy alone."""
