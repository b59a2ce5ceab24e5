"""KV events as vLLM publishes them: their encodings, the publisher, replay."""
