"""A paced streaming server in a few lines, for tests of the bench: `python toy_server.py PORT TTFT ITL` (`100ms`)."""

from __future__ import annotations

import asyncio
import json
import sys


def frame(text: str) -> bytes:
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ttft: float, itl: float) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"post"):
                found = b"200 OK" if head.startswith(b"get /metrics ") else b"404 Not Found"
                writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % found)
                continue
            length = int(head.partition(b"content-length:")[2].split()[0])
            request = json.loads(await reader.readexactly(length))
            tokens = request["max_tokens"]
            if not request.get("stream"):
                await asyncio.sleep(ttft + (tokens - 1) * itl)
                body = f'{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}'.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                continue
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(tokens):
                await asyncio.sleep(itl if number else ttft)
                writer.write(frame('{"choices":[{"delta":{"content":" a"},"finish_reason":null}]}'))
                await writer.drain()
            writer.write(frame(f'{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}'))
            writer.write(frame("[DONE]") + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    port, ttft, itl = int(sys.argv[1]), *(float(text.removesuffix("ms")) / 1000 for text in sys.argv[2:4])
    server = await asyncio.start_server(lambda r, w: serve(r, w, ttft, itl), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
