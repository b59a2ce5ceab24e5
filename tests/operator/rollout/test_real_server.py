"""Push and observe against a running `ghostfleet serve`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.served import servers

from ghostfleet_operator.local.push import admin_client, observe, push
from ghostfleet_operator.rollout import Ack, Target
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document


def document(revision: int, ttft: str) -> Document:
    config = {"model": {"name": "org/model"}, "profile": {"simple": {"timeToFirstToken": ttft}}}
    return Document.of(ServerConfig.model_validate(config), revision)


async def test_a_server_takes_a_document_keeps_it_and_refuses_an_older_one(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with servers(tmp_path_factory.mktemp) as serve:
        url = serve("--admin-token-file", str(token)).admin_url
        async with admin_client() as client:

            async def put(doc: Document, secret: str = "s3cret") -> Ack:
                return (await push([Target("one", url, secret)], doc, client=client))[0]

            new = document(5, "40ms")
            assert (await put(new)).runs(new)
            seen = (await observe([Target("one", url, "s3cret")], client=client))[0]
            assert (seen.revision, seen.hash, seen.reason) == (5, new.hash, None)

            old = await put(document(4, "30ms"))
            assert (old.revision, old.hash) == (5, new.hash)
            assert old.reason == "refused: revision 4 is older than revision 5, which is in force (409)"

            other = await put(document(5, "30ms"))
            assert other.reason is not None
            assert "needs a greater revision" in other.reason

            assert "(401)" in str((await put(new, "guess")).reason)

            broken = Document(new.config, 6, "sha256:0")
            said = (await put(broken)).reason
            assert said is not None
            assert said.startswith("refused: hash: ")
            assert json.dumps(new.hash).strip('"') in said
