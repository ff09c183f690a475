"""HTTP/1.1 over a TlsChannel, with every byte of the request under the caller's control.

A general HTTP library would tidy up what the tests need: double slashes, a missing Host header, odd
capitals, and bytes that follow a `101` answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tls_channel import ConnectionEnded, TlsChannel

HEAD_BYTES_MAX = 256 * 1024


@dataclass
class Answer:
    """Status, headers (lower-case names, last one wins) and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """Content type up to the first `;`."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Http1Connection:
    """Requests one after another on one kept-alive connection."""

    def __init__(self, channel: TlsChannel) -> None:
        self.channel = channel
        self.buffer = b""

    def exchange(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None = None
    ) -> Answer:
        """Send a request and read its answer."""
        self.send(method, target, headers, body)
        return self.read_answer(method)

    def send(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None = None) -> None:
        """Send a request exactly as given; only a missing Content-Length is added to a body."""
        lines = [f"{method} {target} HTTP/1.1"] + [f"{name}: {value}" for name, value in headers]
        if body is not None and not any(n.lower() in ("content-length", "transfer-encoding") for n, _ in headers):
            lines.append(f"content-length: {len(body)}")
        self.channel.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    def read_answer(self, method: str = "GET") -> Answer:
        """Read one answer; bytes behind it (H2 frames after a 101) stay in `buffer`."""
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > HEAD_BYTES_MAX:
                raise ConnectionError("answer head is longer than 256 KiB")
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        if version != "HTTP/1.1" or not status.isdigit():
            raise ConnectionError(f"not an HTTP/1.1 answer: {status_line!r}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        code = int(status)
        if code in (101, 204, 304) or method == "HEAD":
            return Answer(code, headers, b"")
        return Answer(code, headers, self._read_body(headers))

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._read_chunked()
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        parts = [self.buffer]
        self.buffer = b""
        while data := self.channel.receive():
            parts.append(data)
        return b"".join(parts)

    def _read_chunked(self) -> bytes:
        parts = []
        while True:
            size = int(self._line().split(b";")[0], 16)
            if size == 0:
                while self._line():
                    pass
                return b"".join(parts)
            parts.append(self._take(size))
            if self._take(2) != b"\r\n":
                raise ConnectionError("chunk does not end in a line break")

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self._fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def _take(self, size: int) -> bytes:
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            data = self.channel.receive()
            if not data:
                raise ConnectionEnded(f"connection ended {size - have} bytes before the end of the body")
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self.buffer = whole[size:]
        return whole[:size]

    def _fill(self) -> None:
        data = self.channel.receive()
        if not data:
            raise ConnectionEnded("connection ended before the answer was complete")
        self.buffer += data
