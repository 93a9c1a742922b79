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
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and return the body of the reply."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        if "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
        else:
            body = await self._chunks()
        if status.split(" ")[1] != "200":
            raise LoadError(f"{status}: {body[:300]!r}")
        return body

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)
        return b"".join(parts)

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def _client(port: int, requests: Iterator[bytes], latencies: list[float]) -> None:
    async with await Connection.open(port) as connection:
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
        async with await Connection.open(port) as connection:
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
