"""The HTTP surface of one simulated server: vLLM 0.33's routes, bodies and errors."""
