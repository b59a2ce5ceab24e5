"""Fleets of simulated servers: custom resources, the operator, the laptop fleet and the command line."""
