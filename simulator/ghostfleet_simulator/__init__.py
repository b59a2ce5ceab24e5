"""One simulated inference server: on the wire a vLLM server, without a GPU and without weights."""

from importlib.metadata import version

__version__ = version("ghostfleet")
"""Version of the distribution; images and the operator's default simulator image carry the same."""
