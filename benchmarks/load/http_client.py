"""A load generator that costs little beside what it measures: HTTP/1.1 over kept connections."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles


@dataclass(frozen=True)
class Figures:
    """Of one kind of request."""

    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request as bytes; `headers` are whole lines."""
    kind = "content-type: application/json\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def measure(
    port: int, make: Callable[[int], bytes], *, count: int, connections: int, status: int
) -> Figures:
    """Send `count` requests over `connections` connections; every answer must have `status`."""
    numbers = iter(range(count))
    latencies: list[float] = []

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            began = time.perf_counter()
            writer.write(make(number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
            found = int(head.split(b" ", 2)[1])
            if found != status:
                raise AssertionError(f"{found} instead of {status}: {body[:500]!r}")
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(one_connection() for _ in range(connections)))
    seconds = time.perf_counter() - began
    cuts = quantiles(latencies, n=100)
    return Figures(count, seconds, 1000 * cuts[49], 1000 * cuts[94], 1000 * cuts[98])
