"""Real schedulers in front of simulated servers: a file for each signal that they go by."""
