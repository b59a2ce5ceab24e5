"""From what people have for llm-d-inference-sim to objects of ours: documents in, documents out; no I/O."""
