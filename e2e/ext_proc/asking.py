"""A gRPC client in a process: lines of JSON on standard input, an answer to each on standard output.

Runs in a virtual environment of its own (`environment.py`), since `xds-protos` brings top-level packages of common
names. `{"op": "ask", "address": "host:port", "requests": [{"path", "headers", "body"}]}` asks for one after the other;
with `"hold": name` the exchange of the last one stays open, as that of a request that is being answered, until
`{"op": "answer", "name": name, "headers": {}, "chunks": []}` or `{"op": "drop", "name": name}`.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as rpc
from google.protobuf.json_format import MessageToDict

SECONDS = 20.0


class Exchange:
    """One request on its way through the picker."""

    def __init__(self, stub: rpc.ExternalProcessorStub, request: Mapping[str, Any]) -> None:
        """Says the request; `told` is what came of it."""
        self._said: queue.Queue[pb.ProcessingRequest | None] = queue.Queue()
        self._heard: Iterator[pb.ProcessingResponse] = stub.Process(iter(self._said.get, None))
        pairs = {":method": "POST", ":path": request["path"], "content-type": "application/json", **request["headers"]}
        self._say(request_headers=pb.HttpHeaders(headers=_headers(pairs)))
        self._say(request_body=pb.HttpBody(body=json.dumps(request["body"]).encode(), end_of_stream=True))
        self.told = self._destination()

    def _say(self, **part: Any) -> None:
        self._said.put(pb.ProcessingRequest(**part))

    def _destination(self) -> dict[str, Any]:
        headers: dict[str, str] = {}
        metadata: dict[str, Any] = {}
        for reply in self._heard:
            metadata |= MessageToDict(reply.dynamic_metadata)
            kind = reply.WhichOneof("response")
            if kind == "immediate_response":
                found = reply.immediate_response
                return {"refused": found.status.code, "headers": _plain(found.headers), "body": found.body.decode()}
            common = getattr(reply, kind).response
            headers |= _plain(common.header_mutation)
            if kind == "request_body" and _is_last(common):
                return {"headers": headers, "metadata": metadata}
        raise EOFError("the picker ended the exchange without an answer")

    def answer(self, headers: Mapping[str, str], chunks: Sequence[str]) -> dict[str, Any]:
        """Says what the server answered, in these chunks; the body as the picker lets it through, and its headers."""
        self._say(response_headers=pb.HttpHeaders(headers=_headers({":status": "200", "status": "200", **headers})))
        for position, chunk in enumerate(chunks, start=1):
            self._say(response_body=pb.HttpBody(body=chunk.encode(), end_of_stream=position == len(chunks)))
        passed = b""
        set_headers: dict[str, str] = {}
        for reply in self._heard:
            kind = reply.WhichOneof("response")
            if kind == "response_headers":
                set_headers |= _plain(reply.response_headers.response.header_mutation)
            if kind == "response_body":
                part = reply.response_body.response.body_mutation.streamed_response
                passed += part.body
                if part.end_of_stream:
                    break
        self.drop()
        return {"body": passed.decode(), "headers": set_headers}

    def drop(self) -> None:
        """Ends the exchange."""
        self._said.put(None)
        for _ in self._heard:
            pass


def _headers(pairs: Mapping[str, str]) -> base_pb2.HeaderMap:
    return base_pb2.HeaderMap(headers=[base_pb2.HeaderValue(key=k, raw_value=v.encode()) for k, v in pairs.items()])


def _plain(mutation: pb.HeaderMutation) -> dict[str, str]:
    found = [option.header for option in mutation.set_headers]
    return {header.key: (header.raw_value or header.value.encode()).decode() for header in found}


def _is_last(common: pb.CommonResponse) -> bool:
    """Whether it is the end of the request: what is streamed says so, what is not is whole."""
    mutation = common.body_mutation
    return mutation.WhichOneof("mutation") != "streamed_response" or bool(mutation.streamed_response.end_of_stream)


class Client:
    """The channels and the exchanges that are open."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._stubs: dict[str, rpc.ExternalProcessorStub] = {}
        self._held: dict[str, Exchange] = {}

    def ask(self, address: str, requests: Sequence[Mapping[str, Any]], hold: str = "") -> list[dict[str, Any]]:
        """Where each of the requests goes."""
        stub = self._stubs.get(address)
        if stub is None:
            channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
            grpc.channel_ready_future(channel).result(SECONDS)
            stub = self._stubs[address] = rpc.ExternalProcessorStub(channel)
        told = []
        for position, request in enumerate(requests, start=1):
            exchange = Exchange(stub, request)
            told.append(exchange.told)
            if hold and position == len(requests):
                self._held[hold] = exchange
            else:
                exchange.drop()
        return told

    def answer(self, name: str, headers: Mapping[str, str], chunks: Sequence[str]) -> dict[str, Any]:
        """Completes a held exchange."""
        return self._held.pop(name).answer(headers, chunks)

    def drop(self, name: str) -> None:
        """Ends a held exchange in the middle."""
        self._held.pop(name).drop()


def main() -> None:
    """Answers until its standard input ends."""
    client = Client()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            result = {"result": getattr(client, command.pop("op"))(**command)}
        except (grpc.RpcError, grpc.FutureTimeoutError, EOFError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
