"""A TLS connection to a server known by its certificate fingerprint.

Reading and writing may happen in different threads: TLS state lives in memory buffers behind a lock
and the socket is used outside of it.  How a connection ends is explicit, because servers must cope
with every way: orderly, without close_notify, or reset.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading

RECEIVE_BYTES = 256 * 1024


class ConnectionEnded(ConnectionError):
    """The peer ended the connection before a message was complete."""


class FingerprintMismatch(ConnectionError):
    """The server showed another certificate than the pinned one."""


def certificate_fingerprint(der: bytes) -> str:
    """SHA-256 of the leaf, lower-case hex in colon-separated pairs."""
    digest = hashlib.sha256(der).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 64, 2))


class TlsChannel:
    """One connection; `send` and `receive` carry plain bytes."""

    def __init__(
        self, host: str, port: int, fingerprint: str | None, *, timeout: float = 30.0, alpn: list[str] | None = None
    ) -> None:
        """Connect and shake hands; a missing fingerprint accepts any certificate."""
        self._ssl_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(alpn)
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._eof = False
        self.close_notify_seen = False
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._shake_hands()
            seen = certificate_fingerprint(self._tls.getpeercert(binary_form=True) or b"")
            if fingerprint is not None and seen != fingerprint.lower():
                raise FingerprintMismatch(f"server certificate is {seen}, expected {fingerprint.lower()}")
        except BaseException:
            self.socket.close()
            raise

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionEnded("server closed the connection during the TLS handshake") from None
                self._incoming.write(data)
        self.socket.sendall(self._outgoing.read())

    @property
    def alpn_protocol(self) -> str | None:
        """What the server selected."""
        return self._tls.selected_alpn_protocol()

    def set_timeout(self, seconds: float | None) -> None:
        """Bound on one socket operation."""
        self.socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Write all of it."""
        with self._send_lock:
            with self._ssl_lock:
                self._tls.write(data)
                wire = self._outgoing.read()
            self.socket.sendall(wire)

    def receive(self, limit: int = RECEIVE_BYTES) -> bytes:
        """Some bytes, or nothing once the peer has ended its direction (orderly or not)."""
        while True:
            with self._ssl_lock:
                try:
                    data = self._tls.read(limit)
                    if data:
                        return data
                    self.close_notify_seen = True
                    return b""
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLEOFError:
                    return b""
                except ssl.SSLZeroReturnError:
                    self.close_notify_seen = True
                    return b""
            if self._eof:
                return b""
            wire = self.socket.recv(RECEIVE_BYTES)
            with self._ssl_lock:
                if wire:
                    self._incoming.write(wire)
                else:
                    self._eof = True
                    self._incoming.write_eof()

    def end_sending(self, *, close_notify: bool) -> None:
        """End our direction: with close_notify, or with a bare FIN as a killed client does."""
        try:
            if close_notify:
                with self._send_lock:
                    with self._ssl_lock:
                        try:
                            self._tls.unwrap()
                        except ssl.SSLError:
                            pass  # the peer's answer is not awaited
                        wire = self._outgoing.read()
                    self.socket.sendall(wire)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def reset(self) -> None:
        """Drop the connection with a TCP reset."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close both directions at once; a reader in another thread wakes up."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


def refuse_certificate(host: str, port: int, *, timeout: float = 30.0) -> None:
    """Begin a handshake and abort it as a client does that distrusts the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with socket.create_connection((host, port), timeout=timeout) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=host):
                raise AssertionError("a certificate was accepted although nothing is trusted")
        except ssl.SSLCertVerificationError:
            return
