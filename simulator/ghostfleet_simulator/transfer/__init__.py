"""What servers say to each other about KV cache: parameters of requests and answers, and the side channel's client."""

from typing import Final

ROUTES: Final = "/ghostfleet/kv"
"""Where the side channel has the routes that only servers of this kind call."""
