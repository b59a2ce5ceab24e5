"""Whole-system tests, and the tools that give them a Kubernetes to run on."""
