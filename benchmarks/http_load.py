"""A load on an HTTP server, from a process of its own: texts per second, latencies, and a stream beside a query.

    python -m benchmarks.http_load < job.json

It needs nothing but the standard library, and reads as little of a reply as it can: the client shares the machine's
cores with the server. The job and the answer are JSON.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

_HEADERS = "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"


class LoadError(Exception):
    """The server answered with a failure, or not as HTTP has it."""


@dataclass(frozen=True)
class Target:
    """A route of a server on this machine."""

    port: int
    path: str
    extra: dict[str, Any]

    def request(self, texts: Sequence[str]) -> bytes:
        """The bytes of a request for the embeddings of some texts."""
        body = json.dumps({"input": list(texts), **self.extra}).encode()
        return _HEADERS.format(path=self.path, size=len(body)).encode() + body


class Connection:
    """A connection that is kept open, as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and return the body of the reply."""
        is_new = self._streams is None
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            if is_new:
                raise
            await self.close()  # some servers close a connection after a number of requests
            return await self.ask(request)
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        length = headers.get("content-length")
        body = await (_chunks(reader) if length is None else reader.readexactly(int(length)))
        if headers.get("connection") == "close":
            await self.close()
        if status.split(" ")[1] != "200":
            raise LoadError(f"{status}: {body[:300]!r}")
        return body

    async def close(self) -> None:
        """Disconnect."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            await writer.wait_closed()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)


async def _client(port: int, requests: Iterator[bytes], latencies: list[float]) -> None:
    async with Connection(port) as connection:
        for request in requests:
            started = perf_counter()
            await connection.ask(request)
            latencies.append(perf_counter() - started)


async def _together(port: int, requests: Sequence[bytes], clients: int) -> dict[str, Any]:
    """All requests, by some clients that each send the next one when they have their reply."""
    latencies: list[float] = []
    waiting = iter(requests)
    started = perf_counter()
    await asyncio.gather(*(_client(port, waiting, latencies) for _ in range(clients)))
    return {"seconds": perf_counter() - started, "latencies": latencies}


async def _beside(port: int, stream: Sequence[bytes], queries: Sequence[bytes], least: float) -> dict[str, Any]:
    """Queries one after the other while another client sends a stream of requests; the first moment does not count."""
    latencies: list[float] = []

    async def query() -> None:
        async with Connection(port) as connection:
            await asyncio.sleep(least)
            i = 0
            while not streaming.done():
                started = perf_counter()
                await connection.ask(queries[i % len(queries)])
                if not streaming.done():
                    latencies.append(perf_counter() - started)
                i += 1

    started = perf_counter()
    streaming = asyncio.ensure_future(_client(port, iter(stream), []))
    await query()
    await streaming
    return {"seconds": perf_counter() - started, "latencies": latencies}


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Carry out one job.

    Args:
        job: `port`, `path`, `extra` fields of each body, and `kind`: "together" with `requests` (lists of texts) and
            `clients`; or "beside" with a `stream` of requests and `queries`.
    """
    target = Target(job["port"], job["path"], job["extra"])
    if job["kind"] == "beside":
        stream = [target.request(texts) for texts in job["stream"]]
        return await _beside(target.port, stream, [target.request([text]) for text in job["queries"]], job["least"])
    return await _together(target.port, [target.request(texts) for texts in job["requests"]], job["clients"])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
