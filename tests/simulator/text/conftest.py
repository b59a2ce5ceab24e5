"""The shipped tokenizer, loaded once."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer()
