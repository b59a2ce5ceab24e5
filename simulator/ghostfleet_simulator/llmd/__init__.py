"""llm-d-inference-sim's configuration, and what it is here: its command line, its files, its `/admin/config`.

Facts are those of its commit eec055a (August 2026).
"""
