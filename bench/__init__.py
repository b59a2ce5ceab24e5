"""Performance benches: every figure in the docs comes from here. `python -m bench --help` says what there is."""
