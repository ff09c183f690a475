"""HTTP/2 client connection over an upgraded TlsChannel.

Streams run concurrently from any number of threads; the caller decides frame sizes, interleaving,
flow-control windows, resets and how the connection ends.  A reader thread feeds answers in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from http1 import Answer
from tls_channel import ConnectionEnded, TlsChannel

STOCK_STREAM_WINDOW = 2**31 - 2
STOCK_FRAME_BYTES = 4 * 1024 * 1024
DEFAULT_TIMEOUT = 60.0
AUTHORITY = "localhost:8007"


class StreamReset(ConnectionError):
    """The peer reset this stream."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream was reset with error {code}")
        self.code = code


class Stream:
    """One request and its answer in progress."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.done = False
        self.error: Exception | None = None
        self.unacknowledged = 0

    def send(self, data: bytes, *, frame_bytes: int | None = None, end: bool = False) -> None:
        """Send DATA, cut into frames of the given size (never larger than the peer allows)."""
        self.connection.send_data(self, data, frame_bytes, end)

    def reset(self, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        """Abandon the stream."""
        self.connection.reset_stream(self, code)

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> Answer:
        """The complete answer."""
        self.connection.wait_for(lambda: self.done, timeout, f"answer on stream {self.id}")
        if self.error is not None:
            raise self.error
        return Answer(int(self.headers.get(":status", "0")), self.headers, b"".join(self.parts))


class Http2Connection:
    """An HTTP/2 session on a channel whose HTTP/1.1 upgrade has been answered with 101."""

    def __init__(
        self,
        channel: TlsChannel,
        pending: bytes = b"",
        *,
        stream_window: int = STOCK_STREAM_WINDOW,
        frame_bytes_max: int = STOCK_FRAME_BYTES,
        acknowledge: bool = True,
    ) -> None:
        """Send preface and settings; `acknowledge=False` never returns window to the server."""
        self.channel = channel
        self._acknowledge = acknowledge
        self._changed = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self.ended: Exception | None = None
        self.goaway: int | None = None
        self.pings = 0
        self.settings_seen = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: stream_window,
                codes.MAX_FRAME_SIZE: frame_bytes_max,
            },
        )
        self._h2.max_inbound_frame_size = frame_bytes_max
        self._h2.initiate_connection()
        if stream_window > 65535:
            self._h2.increment_flow_control_window(stream_window - 65535)
        channel.set_timeout(None)
        # A thread of its own writes, so that a full socket never keeps the reader from draining the other side.
        self._sendable = threading.Condition()
        self._outbox: list[bytes] = []
        self._writing = self._writer_gone = False
        threading.Thread(target=self._write, daemon=True).start()
        self._flush()
        self._reader = threading.Thread(target=self._read, args=(pending,), daemon=True)
        self._reader.start()

    # --- requests -----------------------------------------------------------------------------

    def open(self, headers: Sequence[tuple[str, str]], *, end: bool) -> Stream:
        """Send a request head as given."""
        with self._changed:
            self._check_open()
            stream = Stream(self, self._h2.get_next_available_stream_id())
            self._h2.send_headers(stream.id, list(headers), end_stream=end)
            self._streams[stream.id] = stream
            self._flush()
        return stream

    def start(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str | None = None,
        frame_bytes: int | None = None,
        extra: Sequence[tuple[str, str]] = (),
    ) -> Stream:
        """Send a whole request without waiting for its answer."""
        if content_type is None:
            content_type = "application/octet-stream" if body is not None else "application/x-www-form-urlencoded"
        headers = [
            (":method", method),
            (":scheme", "https"),
            (":authority", AUTHORITY),
            (":path", path),
            ("user-agent", "holdfast-tests/1.0"),
            ("content-type", content_type),
            *extra,
        ]
        stream = self.open(headers, end=body is None)
        if body is not None:
            stream.send(body, frame_bytes=frame_bytes, end=True)
        return stream

    def request(self, method: str, path: str, body: bytes | None = None, **options: object) -> Answer:
        """Send a request and wait for its answer."""
        return self.start(method, path, body, **options).wait()  # type: ignore[arg-type]

    def streams_max(self) -> int:
        """How many streams the server allows at once."""
        self.wait_for(lambda: self.settings_seen, DEFAULT_TIMEOUT, "the server's SETTINGS")
        return self._h2.remote_settings.max_concurrent_streams

    def send_data(self, stream: Stream, data: bytes, frame_bytes: int | None, end: bool) -> None:
        """Send DATA frames within the peer's windows, waiting for them when they are used up."""
        view, sent = memoryview(data), 0
        while sent < len(view) or (end and not len(view)):
            with self._changed:
                room = self._wait_for_window(stream, len(view) - sent) if len(view) else 0
                if stream.done:
                    return  # answered before the body was complete: no use in sending the rest
                size = min(room, len(view) - sent, frame_bytes or room, self._h2.max_outbound_frame_size)
                last = sent + size == len(view)
                self._h2.send_data(stream.id, bytes(view[sent : sent + size]), end_stream=end and last)
                self._flush()
            sent += size
            if not len(view):
                return

    def try_send_frame(self, stream: Stream, data: bytes, end: bool) -> bool:
        """Send one frame if the windows have room for all of it now; for hand-made interleaving."""
        with self._changed:
            self._check_open()
            if stream.done:
                return True
            if self._h2.local_flow_control_window(stream.id) < len(data):
                return False
            self._h2.send_data(stream.id, data, end_stream=end)
            self._flush()
            return True

    def wait_for_progress(self, timeout: float) -> None:
        """Sleep until anything arrives from the server."""
        with self._changed:
            if not self._changed.wait(timeout):
                raise TimeoutError(f"nothing came from the server in {timeout} s")
            self._check_open()

    def _wait_for_window(self, stream: Stream, wanted: int) -> int:
        deadline = time.monotonic() + DEFAULT_TIMEOUT
        while True:
            self._check_open()
            if stream.done:
                return 0
            room = self._h2.local_flow_control_window(stream.id)
            if room > 0:
                return min(room, wanted)
            if not self._changed.wait(deadline - time.monotonic()):
                raise TimeoutError(f"no window on stream {stream.id} for {DEFAULT_TIMEOUT} s")

    # --- connection-level actions -------------------------------------------------------------

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Send RST_STREAM."""
        with self._changed:
            self._check_open()
            self._h2.reset_stream(stream.id, code)
            stream.done, stream.error = True, StreamReset(int(code))
            self._flush()
            self._changed.notify_all()

    def ping(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Send PING and wait for its acknowledgement."""
        with self._changed:
            before = self.pings
            self._h2.ping(b"holdfast")
            self._flush()
        self.wait_for(lambda: self.pings > before, timeout, "the answer to a PING")

    def send_goaway(self) -> None:
        """Announce an orderly end; nothing more is sent afterwards."""
        with self._changed:
            self._h2.close_connection()
            self._flush()

    def close(self, *, goaway: bool = False, close_notify: bool = False) -> None:
        """End the connection; the default is what a stock client does after `finish`."""
        if goaway and self.ended is None:
            self.send_goaway()
        self.end_sending(close_notify=close_notify)
        self._reader.join(5.0)
        self.channel.close()
        self._stop_writer()

    def end_sending(self, *, close_notify: bool) -> None:
        """End our direction only, after all that was queued; `wait_for_end` then waits for the server's."""
        with self._sendable:
            self._sendable.wait_for(lambda: self._writer_gone or not (self._outbox or self._writing), 10.0)
        self.channel.end_sending(close_notify=close_notify)

    def abort(self) -> None:
        """Drop the connection with a TCP reset."""
        self.channel.reset()
        self._stop_writer()

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until the server has ended the connection."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def wait_for(self, condition, timeout: float, what: str) -> None:  # type: ignore[no-untyped-def]
        """Wait for something the reader thread brings about."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                if self.ended is not None:
                    raise ConnectionEnded(f"connection ended while waiting for {what}: {self.ended}")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {what} in {timeout} s")

    # --- threads ------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._sendable:
                self._writing = False
                self._sendable.notify_all()
                self._sendable.wait_for(lambda: bool(self._outbox))
                data, self._outbox = b"".join(self._outbox), []
                self._writing = True
            try:
                if data:
                    self.channel.send(data)
                    continue
            except (OSError, ValueError):
                pass  # the reader thread reports how the connection ended
            with self._sendable:
                self._writer_gone = True
                self._sendable.notify_all()
            return

    def _stop_writer(self) -> None:
        with self._sendable:
            self._outbox = [b""]
            self._sendable.notify_all()

    def _read(self, pending: bytes) -> None:
        try:
            data = pending or self.channel.receive()
            while data:
                with self._changed:
                    for event in self._h2.receive_data(data):
                        self._handle(event)
                    self._flush()
                    self._changed.notify_all()
                data = self.channel.receive()
            self._end(ConnectionEnded("server closed the connection"))
        except Exception as error:  # every failure must reach the waiting threads
            self._end(error)

    def _end(self, error: Exception) -> None:
        with self._changed:
            self.ended = error
            for stream in self._streams.values():
                if not stream.done:
                    stream.done, stream.error = True, error
            self._changed.notify_all()

    def _handle(self, event: h2.events.Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings_seen = True
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            stream.parts.append(event.data)
            if self._acknowledge and event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream.id)
            else:
                stream.unacknowledged += event.flow_controlled_length or 0
        elif isinstance(event, h2.events.StreamEnded):
            stream.done = True
        elif isinstance(event, h2.events.StreamReset) and not stream.done:
            stream.done, stream.error = True, StreamReset(int(event.error_code or 0))

    def _check_open(self) -> None:
        if self.ended is not None:
            raise ConnectionEnded(f"connection has ended: {self.ended}")

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            with self._sendable:
                self._outbox.append(data)
                self._sendable.notify_all()
