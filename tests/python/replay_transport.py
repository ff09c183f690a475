"""How a replay reaches a server: over the network, or (for the self-check) out of the recording."""

from __future__ import annotations

import re
from typing import Any, Protocol

from http1 import Answer, Http1Connection
from http2 import Http2Connection, Stream
from tls_channel import TlsChannel, refuse_certificate
from transcript import Exchange, Transcript

Headers = list[tuple[str, str]]


class Transport(Protocol):
    """What the replayer needs."""

    def connect(self, conn: int) -> None:
        """Open the connection with this recorded number."""

    def refuse_certificate(self, conn: int) -> None:
        """Begin TLS and abort it."""

    def send_head(self, exchange: Exchange, target: str, headers: Headers, body: bytes | None) -> None:
        """Send a request; inside HTTP/2 only its head."""

    def send_body(self, exchange: Exchange, body: bytes | None) -> None:
        """Send the body of an HTTP/2 request."""

    def answer(self, exchange: Exchange) -> Answer:
        """Wait for the answer."""

    def client_event(self, conn: int, event: dict[str, Any]) -> None:
        """Send GOAWAY, PING or RST_STREAM."""

    def end(self, conn: int, close_notify: bool) -> None:
        """End our direction of the connection."""

    def wait_for_end(self, conn: int) -> bool:
        """Wait until the server has ended its direction; False when it does not in time."""


class LiveTransport:
    """Over TLS to a server."""

    def __init__(self, host: str, port: int, fingerprint: str | None, timeout: float) -> None:
        self.host, self.port, self.fingerprint, self.timeout = host, port, fingerprint, timeout
        self.plain: dict[int, Http1Connection] = {}
        self.h2: dict[int, Http2Connection] = {}
        self.streams: dict[int, Stream] = {}

    def connect(self, conn: int) -> None:
        self.plain[conn] = Http1Connection(TlsChannel(self.host, self.port, self.fingerprint, timeout=self.timeout))

    def refuse_certificate(self, conn: int) -> None:
        refuse_certificate(self.host, self.port)

    def send_head(self, exchange: Exchange, target: str, headers: Headers, body: bytes | None) -> None:
        if exchange.is_h2:
            if exchange.conn not in self.h2:
                raise ConnectionError("the connection was never upgraded")
            end = not body and not exchange.request_incomplete
            self.streams[exchange.seq] = self.h2[exchange.conn].open(headers, end=end)
        else:
            self.plain[exchange.conn].send(exchange.method, target, headers, body)

    def send_body(self, exchange: Exchange, body: bytes | None) -> None:
        if not body:
            return
        stream, position = self.streams[exchange.seq], 0
        frames = exchange.request_frames if sum(exchange.request_frames) == len(body) else [len(body)]
        for number, size in enumerate(frames, 1):
            stream.send(body[position : position + size], end=number == len(frames))
            position += size

    def answer(self, exchange: Exchange) -> Answer:
        if exchange.is_h2:
            return self.streams[exchange.seq].wait(self.timeout)
        connection = self.plain[exchange.conn]
        answer = connection.read_answer(exchange.method)
        if answer.status == 101:
            self.h2[exchange.conn] = Http2Connection(connection.channel, connection.buffer)
        return answer

    def client_event(self, conn: int, event: dict[str, Any]) -> None:
        connection = self.h2.get(conn)
        if connection is None:
            return
        if event["event"] == "goaway":
            connection.send_goaway()
        elif event["event"] == "ping":
            connection.ping()
        elif event["event"] == "rst_stream":
            for stream in self.streams.values():
                if stream.connection is connection and stream.id == event["stream"]:
                    stream.reset(event.get("error", 8))

    def end(self, conn: int, close_notify: bool) -> None:
        if conn in self.h2:
            self.h2[conn].end_sending(close_notify=close_notify)
        elif conn in self.plain:
            self.plain[conn].channel.end_sending(close_notify=close_notify)

    def wait_for_end(self, conn: int) -> bool:
        if conn in self.h2:
            ended = self.h2[conn].wait_for_end(self.timeout)
            self.h2[conn].close()
            return ended
        if conn not in self.plain:
            return True
        channel = self.plain[conn].channel
        try:
            channel.set_timeout(self.timeout)
            while channel.receive():
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            channel.close()


class RecordedTransport:
    """Answers from the recording, disguised as another server's.

    Tickets, CSRF tokens, task ids and writer ids differ from the recorded ones, and every request is
    checked to carry the disguised value.  So the self-check also covers the mapping.
    """

    WRITER_SHIFT = 100
    TASK_MARK = ("UPID:pbs:000056A2:", "UPID:disguise:0000BEEF:")

    def __init__(self, recording: Transcript) -> None:
        self.open: set[int] = set()
        self.h2: set[int] = set()
        self.sent: set[int] = set()
        self.problems: list[str] = []
        texts = [e.response_body or b"" for e in recording.exchanges if e.path.endswith("/access/ticket")]
        found = re.findall(rb'"(?:ticket|CSRFPreventionToken)":"([^"]+)"', b"".join(texts))
        self.secrets = {secret.decode(): secret.decode() + "Disguised" for secret in found}
        self.writers = {
            (e.conn, str(e.response_body))
            for e in recording.exchanges
            if e.is_h2 and e.method == "POST" and e.path in ("/dynamic_index", "/fixed_index") and e.status == 200
        }

    def connect(self, conn: int) -> None:
        self._expect(conn not in self.open, f"connection {conn} is opened twice")
        self.open.add(conn)

    def refuse_certificate(self, conn: int) -> None:
        self._expect(conn not in self.open, f"connection {conn} is open although TLS failed")

    def send_head(self, exchange: Exchange, target: str, headers: Headers, body: bytes | None) -> None:
        self._expect(exchange.conn in self.open, f"seq {exchange.seq} is sent on a closed connection")
        self._expect(exchange.is_h2 == (exchange.conn in self.h2), f"seq {exchange.seq} uses the wrong protocol")
        self.sent.add(exchange.seq)
        values = dict((name.lower(), value) for name, value in headers)
        carried = values.get("cookie", "") + values.get("csrfpreventiontoken", "")
        for secret in self.secrets:
            plain = carried.replace("%3A", ":")
            self._expect(plain.count(secret) == plain.count(self.secrets[secret]), f"seq {exchange.seq}: old secret")
        self._expect("000056A2" not in target, f"seq {exchange.seq}: old task id in {target}")
        for text in (target, (body or b"")[:100000].decode("latin-1") if "wid" in str(exchange.request_json()) else ""):
            for wid in re.findall(r'(?:[?&]wid=|"wid"\s*:\s*)(\d+)', text):
                recorded = (exchange.conn, str(b'{"data":%d}' % (int(wid))))
                self._expect(recorded not in self.writers, f"seq {exchange.seq}: old writer id {wid}")

    def send_body(self, exchange: Exchange, body: bytes | None) -> None:
        self._expect(exchange.seq in self.sent, f"body of seq {exchange.seq} before its head")

    def answer(self, exchange: Exchange) -> Answer:
        self._expect(exchange.seq in self.sent, f"answer to seq {exchange.seq} before its request")
        if exchange.status == 101:
            self.h2.add(exchange.conn)
        return self.disguised(exchange)

    def disguised(self, exchange: Exchange) -> Answer:
        """The recorded answer as another server would give it."""
        body = exchange.response_body or b""
        if exchange.response_is_json:
            for secret, other in self.secrets.items():
                body = body.replace(secret.encode(), other.encode())
            body = body.replace(self.TASK_MARK[0].encode(), self.TASK_MARK[1].encode())
            if (exchange.conn, str(body)) in self.writers and exchange.path in ("/dynamic_index", "/fixed_index"):
                if exchange.method == "POST":
                    body = re.sub(rb"\d+", lambda m: b"%d" % (int(m[0]) + self.WRITER_SHIFT), body)
        return Answer(exchange.status or 0, dict(exchange.response_headers), body)

    def client_event(self, conn: int, event: dict[str, Any]) -> None:
        self._expect(conn in self.h2, f"{event['event']} outside of HTTP/2")

    def end(self, conn: int, close_notify: bool) -> None:
        self._expect(conn in self.open, f"connection {conn} ends without being open")

    def wait_for_end(self, conn: int) -> bool:
        self.open.discard(conn)
        return True

    def _expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)
