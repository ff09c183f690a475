"""Reading recorded sessions (`NAME.jsonl`, gzipped or not; the format is in their README).

A file becomes a `Transcript`: its exchanges, its events, and one timeline of steps ordered by `seq`
that a replayer follows: open a connection, send a request head, send its body, wait for its
response, end a connection.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

DEFAULT_DIRECTORY = str(Path(__file__).resolve().parents[3] / "shared" / "transcripts")
"""Beside the checkout."""
_PLAIN_MAGIC = bytes.fromhex("42ab3807be8370a1")

KNOWN_EVENTS = frozenset(
    "scenario step step_end note kill connect tls_failed upgrade preface settings window_update goaway "
    "rst_stream ping eof".split()
)


class TranscriptError(ValueError):
    """A recording that does not follow its own description."""


@dataclass
class Exchange:
    """One request and its answer."""

    seq: int
    conn: int
    proto: str
    stream: int | None
    method: str
    raw_target: str
    path: str
    query: dict[str, Any]
    request_headers: list[tuple[str, str]]
    request_body: bytes | None
    request_frames: list[int]
    request_end_seq: int | None
    request_incomplete: bool
    status: int | None
    response_headers: dict[str, str]
    response_body: bytes | None
    response_sha256: str | None
    response_len: int | None
    response_seq: int | None

    @property
    def is_h2(self) -> bool:
        """Whether it ran inside an upgraded connection."""
        return self.proto == "h2"

    @property
    def content_type(self) -> str:
        """The answer's content type up to the first `;`, empty when absent."""
        return self.response_headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def response_is_json(self) -> bool:
        """Whether the answer is a JSON document (error texts are labelled JSON too)."""
        return self.content_type == "application/json" and self.status is not None and self.status < 400

    @property
    def file_name(self) -> str | None:
        """The archive or blob that the request names in its query."""
        return self.query.get("file-name") or self.query.get("archive-name")

    @property
    def title(self) -> str:
        """Short form for reports."""
        names = [f"{k}={self.query[k]}" for k in ("archive-name", "file-name", "digest") if k in self.query]
        return f"{self.method} {self.path}" + (f" [{' '.join(names)}]" if names else "")

    def request_json(self) -> Any:
        """The request body as JSON, or None."""
        try:
            return json.loads(self.request_body or b"")
        except ValueError:
            return None


class Step(IntEnum):
    """What a replayer does at one position; the order breaks ties at equal positions."""

    CONNECT = 0
    TLS_FAILED = 1
    HEAD = 2
    BODY = 3
    ANSWER = 4
    CLIENT_EVENT = 5
    CLIENT_END = 6
    SERVER_END = 7


@dataclass(order=True)
class TimelineEntry:
    """One step of the timeline."""

    seq: int
    step: Step
    conn: int = field(compare=False)
    exchange: Exchange | None = field(default=None, compare=False)
    event: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Transcript:
    """A whole scenario."""

    name: str
    exchanges: list[Exchange]
    events: list[dict[str, Any]]

    def timeline(self) -> list[TimelineEntry]:
        """All steps in replay order."""
        entries: list[TimelineEntry] = []
        for ex in self.exchanges:
            entries.append(TimelineEntry(ex.seq, Step.HEAD, ex.conn, ex))
            if ex.is_h2 and not ex.request_incomplete:
                entries.append(TimelineEntry(ex.request_end_seq or ex.seq, Step.BODY, ex.conn, ex))
            if ex.response_seq is not None:
                entries.append(TimelineEntry(ex.response_seq, Step.ANSWER, ex.conn, ex))
        for event in self.events:
            kind, conn, seq = event["event"], event.get("conn"), event["seq"]
            if kind == "connect":
                entries.append(TimelineEntry(seq, Step.CONNECT, conn, event=event))
            elif kind == "tls_failed":
                entries.append(TimelineEntry(seq, Step.TLS_FAILED, conn, event=event))
            elif kind == "eof":
                step = Step.CLIENT_END if event["dir"] == "c2s" else Step.SERVER_END
                entries.append(TimelineEntry(seq, step, conn, event=event))
            elif kind in ("goaway", "rst_stream", "ping") and event["dir"] == "c2s" and not event.get("ack"):
                entries.append(TimelineEntry(seq, Step.CLIENT_EVENT, conn, event=event))
        return sorted(entries)


def directory(given: str | None = None) -> Path:
    """Where the recordings are: the argument, HOLDFAST_TRANSCRIPTS, or the default."""
    return Path(given or os.environ.get("HOLDFAST_TRANSCRIPTS") or DEFAULT_DIRECTORY)


def files(given: str | None = None) -> list[Path]:
    """All recordings in the directory, by name."""
    return sorted(p for p in directory(given).glob("*.jsonl*") if p.name.endswith((".jsonl", ".jsonl.gz")))


def find(name: str, given: str | None = None) -> Path:
    """The file of one scenario."""
    for suffix in (".jsonl", ".jsonl.gz"):
        path = directory(given) / (name + suffix)
        if path.exists():
            return path
    raise TranscriptError(f"no recording named {name} in {directory(given)}")


def load(path: Path) -> Transcript:
    """Parse a file; raises TranscriptError for anything it does not understand."""
    exchanges: list[Exchange] = []
    events: list[dict[str, Any]] = []
    bodies: dict[tuple[int, str], bytes] = {}
    for line in _lines(path):
        if "method" in line:
            exchanges.append(_exchange(line, bodies))
        elif line.get("event") in KNOWN_EVENTS:
            events.append(line)
        else:
            raise TranscriptError(f"{path.name}: line with seq {line.get('seq')} is neither exchange nor known event")
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Transcript(name, exchanges, events)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


def _exchange(line: dict[str, Any], bodies: dict[tuple[int, str], bytes]) -> Exchange:
    seq = line["seq"]
    request_body = _body(line, "req", bodies)
    response_body = _body(line, "resp", bodies)
    return Exchange(
        seq=seq,
        conn=line["conn"],
        proto=line["proto"],
        stream=line["stream"],
        method=line["method"],
        raw_target=line["raw_target"],
        path="/" + unquote(line["raw_target"].split("?")[0]).lstrip("/"),
        query=line["query"],
        request_headers=list(line["req_headers"].items()),
        request_body=request_body,
        request_frames=_frames(line, request_body),
        request_end_seq=line.get("req_end_seq"),
        request_incomplete=bool(line.get("req_incomplete")),
        status=line["status"],
        response_headers={k.lower(): v for k, v in line.get("resp_headers", {}).items()},
        response_body=response_body,
        response_sha256=line.get("resp_body_sha256"),
        response_len=line.get("resp_body_len"),
        response_seq=line.get("resp_seq"),
    )


def _frames(line: dict[str, Any], body: bytes | None) -> list[int]:
    frames = line.get("req_data_frames") or ([len(body)] if body else [])
    if not line.get("req_incomplete") and sum(frames) != len(body or b""):
        raise TranscriptError(f"seq {line['seq']}: DATA frames do not add up to the body")
    return frames


def _body(line: dict[str, Any], side: str, bodies: dict[tuple[int, str], bytes]) -> bytes | None:
    """Resolve one body: inline, by reference, or reconstructed when it was omitted."""
    seq, encoded = line["seq"], line.get(f"{side}_body_b64")
    reference = line.get(f"{side}_body_ref")
    if reference is not None:
        body = bodies.get((reference[0], reference[1]))
        if body is None:
            raise TranscriptError(f"seq {seq}: body refers to {reference}, which holds none")
    elif line.get(f"{side}_body_omitted"):
        body = _omitted_body(line, side)
    elif encoded is None:
        return None
    else:
        body = base64.b64decode(encoded)
    expected = line.get(f"{side}_body_sha256")
    free = bool(line.get(f"{side}_body_omitted")) and line["path"] == "/speedtest"
    if body is not None and expected and not free and hashlib.sha256(body).hexdigest() != expected:
        raise TranscriptError(f"seq {seq}: {side} body does not have the recorded digest")
    if body is not None:
        bodies[(seq, side)] = body
    return body


def _omitted_body(line: dict[str, Any], side: str) -> bytes | None:
    """Speed test payloads are free bytes; the other omitted body is a plain blob of zeros."""
    length = line[f"{side}_body_len"]
    if side == "resp":
        return None  # compared by length and SHA-256
    head = base64.b64decode(line.get(f"{side}_body_head_b64") or "")
    if line["path"] == "/speedtest":
        return head + random.Random(line["seq"]).randbytes(length - len(head))
    if head.startswith(_PLAIN_MAGIC) and not any(head[12:]):
        zeros = bytes(length - 12)
        return _PLAIN_MAGIC + struct.pack("<I", zlib.crc32(zeros)) + zeros
    raise TranscriptError(f"seq {line['seq']}: cannot reconstruct the omitted body")
