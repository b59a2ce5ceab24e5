"""What requests are judged by: the names, limits and settings of a server."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from ghostfleet_simulator.api.errors import unknown_model
from ghostfleet_simulator.config import Api, ServerConfig
from ghostfleet_simulator.runtime.adapters import AdapterNames
from ghostfleet_simulator.text.tokenizer import Tokenizer
from ghostfleet_simulator.versions import NEWEST, Conduct, conduct


def _random_id() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know about a server to judge a request."""

    aliases: tuple[str, ...]
    """Names that requests may use; the first one is answered."""
    max_model_len: int
    tokenizer: Tokenizer
    max_prompt_chars: int
    """No text of more characters fits into `max_model_len` tokens."""
    settings: Api = field(default_factory=Api)
    conduct: Conduct = field(default_factory=lambda: conduct(NEWEST))
    """What the version does that is shown."""
    max_num_seqs: int = 256
    """Most sequences that run at a time."""
    adapters: AdapterNames = field(default_factory=AdapterNames)
    """LoRA adapters, which requests may name as their model as well."""
    ranks: int = 1
    """Engines behind this address, for a request to name one by its place among them."""
    takes_media: bool = False
    """Requests may hold images and the like."""
    encodes: bool = False
    """Answers tell where the encodings of such are."""
    new_id: Callable[[], str] = _random_id
    """Makes the id of a request that brings none: 16 hex digits in vLLM."""

    @classmethod
    def of(cls, config: ServerConfig, tokenizer: Tokenizer, adapters: AdapterNames | None = None) -> Facts:
        """The facts of a server; reads the whole vocabulary once."""
        longest = max(len(tokenizer.id_to_token(token_id) or "") for token_id in range(tokenizer.vocab_size))
        model = config.model
        most = model.max_model_len * longest
        return cls(
            aliases=model.aliases,
            max_model_len=model.max_model_len,
            tokenizer=tokenizer,
            max_prompt_chars=most,
            settings=config.api,
            conduct=config.engine.conduct,
            max_num_seqs=config.limits.max_num_seqs,
            adapters=adapters or AdapterNames(),
            ranks=len(config.ranks),
            takes_media=model.takes_media,
            encodes=model.encoder_only,
        )

    def check_model(self, name: str | None) -> None:
        """Raises the 404 of a model that is not served; no name at all means the first."""
        if name and name not in self.aliases and name not in self.adapters.by_name:
            raise unknown_model(name, self.aliases if self.conduct.lists_aliases else ())
