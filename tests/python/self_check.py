"""The replayer without a server: does it accept what was recorded, and notice what was not?

First every recording is replayed against itself, through the real scheduler and mapping: all answers
must be equal.  Then each answer is damaged in many small ways, and each damage must be found.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pbs_format as fmt
import transcript
from comparison import compare
from http1 import Answer
from mapping import RECORDED_SECRET, Mapping
from replay_transport import RecordedTransport
from transcript import Exchange, Transcript

# Members whose value (not only the type) must be compared wherever they occur.
COMPARED_VALUES = frozenset(
    "backup-id backup-time backup-type backup-count last-backup keep protected owner filename crypt-mode comment ns "
    "worker_id worker_type user store username backend-type mount-status text type leaf removed-groups "
    "removed-snapshots protected-snapshots pong success".split()
)


def replay(recording: Transcript) -> tuple[Any, list[str]]:
    """Replay a recording against itself; returns the result and what the transport found wrong."""
    from replay import Replayer  # the command line module imports this one

    transport = RecordedTransport(recording)
    mapping = Mapping("recorded:8007", RECORDED_SECRET, {})
    return Replayer(recording, transport, mapping, settle=0).run(), transport.problems


def undetected(recording: Transcript) -> tuple[int, list[str]]:
    """Number of damaged answers tried, and those that the comparison took for equal."""
    tried, missed = 0, []
    for exchange in recording.exchanges:
        if exchange.status is None:
            continue
        for what, answer in damaged(exchange):
            tried += 1
            if not compare(exchange, answer):
                missed.append(f"{recording.name} seq {exchange.seq} {exchange.title}: {what}")
    return tried, missed


def damaged(exchange: Exchange) -> Iterator[tuple[str, Answer]]:
    """Answers that differ from the recorded one in one way each."""
    status, headers, body = exchange.status or 0, exchange.response_headers, exchange.response_body or b""
    for other in (200, 400, 404, 500):
        if other != status:
            yield f"status {other}", Answer(other, headers, body or b"text")
    if status >= 400:
        yield "empty error text", Answer(status, headers, b"")
    elif status == 101:
        yield "other protocol", Answer(status, {**headers, "upgrade": "h2c"}, b"")
    else:
        yield "content type", Answer(status, {**headers, "content-type": "text/html"}, body)
        damage = _damaged_json if exchange.content_type == "application/json" else _damaged_download
        for what, changed in damage(exchange, body):
            yield what, Answer(status, headers, changed)


def _damaged_download(exchange: Exchange, body: bytes) -> Iterator[tuple[str, bytes]]:
    if exchange.response_body is None or exchange.path.endswith("/log"):
        return
    if exchange.file_name == fmt.MANIFEST_NAME:
        encoded = "decoded" not in exchange.path
        manifest = fmt.decode_manifest(body) if encoded else json.loads(body)
        for what, changed in _damaged_values(manifest, ("files", "size", "csum", "backup-id", "signature")):
            yield what, fmt.encode_manifest(changed) if encoded else json.dumps(changed).encode()
        return
    yield "truncated", body[:-1]
    yield "longer", body + b"\0"
    for at in (0, 7, 32, len(body) // 2, len(body) - 1):
        if at < len(body) and not (8 <= at < 32):
            yield f"byte {at} flipped", body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def _damaged_json(exchange: Exchange, body: bytes) -> Iterator[tuple[str, bytes]]:
    document = json.loads(body)
    yield "not JSON", body[:-1]
    yield "extra member", json.dumps({**document, "surplus": 1}).encode()
    names = () if "/tasks/" in exchange.path else COMPARED_VALUES
    for what, changed in _damaged_values(document, names, exchange.path.endswith("/log")):
        yield what, json.dumps(changed).encode()
    ordered = exchange.path.endswith(("/prune", "/files")) and isinstance(document["data"], list)
    if ordered and len(document["data"]) > 1:
        yield "order", json.dumps({**document, "data": document["data"][::-1]}).encode()


def _damaged_values(document: Any, compared: Any, task_log: bool = False) -> Iterator[tuple[str, Any]]:
    for path in _paths(document):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        for what, change in (("removed", _remove), ("other type", _retype), ("other value", _alter)):
            if what == "other value" and name not in compared:
                continue
            changed = copy.deepcopy(document)
            holder = changed
            for part in path[:-1]:
                holder = holder[part]
            if change(holder, path[-1]):
                yield f"{'.'.join(map(str, path))} {what}", changed


def _paths(value: Any, path: tuple[Any, ...] = (), limit: int = 3) -> Iterator[tuple[Any, ...]]:
    """Paths to all members, of lists only the first items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:limit]) if isinstance(value, list) else ()
    for key, item in items:
        if path[:1] == ("unprotected",):
            continue
        yield (*path, key)
        yield from _paths(item, (*path, key), limit)


def _remove(holder: Any, key: Any) -> bool:
    del holder[key]
    return True


def _retype(holder: Any, key: Any) -> bool:
    holder[key] = {"wrong": 1} if not isinstance(holder[key], dict) else "wrong"
    return True


def _alter(holder: Any, key: Any) -> bool:
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int):
        holder[key] = value + 1
    elif isinstance(value, str):
        holder[key] = value + "x"
    else:
        return False
    return True


def run(paths: list[Path]) -> int:
    """Check all files; prints a table and returns an exit status."""
    failed = False
    print(f"{'scenario':24}{'sent':>6}{'equal':>7}{'damaged':>9}{'missed':>8}")
    for path in paths:
        recording = transcript.load(path)
        result, problems = replay(recording)
        tried, missed = undetected(recording)
        problems += [f"seq {f.seq}: {f.title}: {f.difference}" for f in result.unexpected + result.deliberate]
        problems += result.notes + missed
        print(f"{recording.name:24}{result.sent:6}{result.equal:7}{tried:9}{len(missed):8}")
        for problem in problems[:20]:
            print(f"  {problem}")
        failed = failed or bool(problems)
    return 1 if failed else 0
