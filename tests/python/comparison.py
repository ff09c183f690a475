"""Comparing a server's answer with the recorded one, by the rules of the recordings' README.

Equal must be: status, presence and JSON type of every member, content type up to `;`, and all values
except those that differ from run to run.  Downloads are compared byte for byte, index headers except
their UUID and time, manifests by their JSON.  Of error answers only status and non-empty text count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pbs_format as fmt
from http1 import Answer
from transcript import Exchange


@dataclass(frozen=True)
class Difference:
    """One deviation; `field` is `status`, `content-type`, `body`, or a path such as `data[].files[].size`."""

    field: str
    expected: Any
    actual: Any
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.field}: expected {self.expected!r:.200}, got {self.actual!r:.200}{note}"


# Members whose value differs from run to run wherever they appear; their type is still compared.
VARYING = frozenset(
    "ticket CSRFPreventionToken repoid pid pstart starttime endtime pbs-instance-id digest last-run-endtime "
    "next-run duration history history-start history-delta estimated-full-date cache-stats created".split()
)
GC_COUNTERS = frozenset(
    "index-file-count index-data-bytes disk-bytes disk-chunks removed-bytes removed-chunks pending-bytes "
    "pending-chunks removed-bad still-bad hits misses".split()
)
# Members of a list item that identify it, where the order of the list carries no meaning.
UNORDERED = (
    ("snapshots", "data", ("backup-type", "backup-id", "backup-time")),
    ("groups", "data", ("backup-type", "backup-id")),
    ("namespace", "data", ("ns",)),
    ("datastore", "data", ("store",)),
    ("datastore-usage", "data", ("store",)),
    ("users", "data", ("userid",)),
)
UPID = re.compile(
    r"^UPID:(?P<node>[A-Za-z0-9][A-Za-z0-9-]*):[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8,16}:[0-9A-F]{8}:"
    r"(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):$"
)
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d: ")


def compare(exchange: Exchange, actual: Answer, rename: Callable[[str], str] = str) -> list[Difference]:
    """All deviations; `rename` turns names of the server under test into recorded ones."""
    if actual.status != exchange.status:
        return [Difference("status", exchange.status, actual.status, actual.text[:200])]
    if actual.status == 101:
        return _compare_upgrade(exchange, actual)
    if actual.status >= 400:
        return _compare_error(actual)
    differences = []
    if actual.content_type != exchange.content_type:
        differences.append(Difference("content-type", exchange.content_type, actual.content_type))
    if exchange.content_type == "application/json":
        return differences + _compare_json_bodies(exchange, actual, rename)
    return differences + _compare_download(exchange, actual)


def _compare_upgrade(exchange: Exchange, actual: Answer) -> list[Difference]:
    differences = []
    if actual.headers.get("upgrade") != exchange.response_headers.get("upgrade"):
        differences.append(
            Difference("upgrade", exchange.response_headers.get("upgrade"), actual.headers.get("upgrade"))
        )
    if "upgrade" not in actual.headers.get("connection", "").lower():
        differences.append(Difference("connection", "upgrade", actual.headers.get("connection")))
    return differences


def _compare_error(actual: Answer) -> list[Difference]:
    try:
        text = actual.body.decode("utf-8")
    except UnicodeDecodeError:
        return [Difference("body", "text", actual.body[:40], "error answer is not text")]
    return [] if text.strip() else [Difference("body", "text", text, "error answer without a text")]


# --- downloads --------------------------------------------------------------------------------


def _compare_download(exchange: Exchange, actual: Answer) -> list[Difference]:
    expected, got, name = exchange.response_body, actual.body, exchange.file_name or ""
    if exchange.path.endswith("/log"):
        lines = actual.text.splitlines()
        bad = [line for line in lines if not LOG_LINE.match(line)]
        return [] if lines and not bad else [Difference("body", "task log lines", (bad or lines)[:1])]
    decoded = exchange.path.endswith(("download-decoded", "pxar-file-download"))
    if name == fmt.MANIFEST_NAME:
        return _compare_manifests(expected or b"", got, encoded=not decoded)
    if expected is None:
        same = len(got) == exchange.response_len and hashlib.sha256(got).hexdigest() == exchange.response_sha256
        return [] if same else [Difference("body", f"{exchange.response_len} bytes", f"{len(got)} bytes")]
    if name.endswith((".didx", ".fidx")) and not decoded:
        expected, got = expected[:8] + expected[32:], got[:8] + got[32:]
    if expected == got:
        return []
    at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
    return [Difference("body", f"{len(expected)} bytes", f"{len(got)} bytes", f"first difference at {at}")]


def _compare_manifests(expected: bytes, got: bytes, *, encoded: bool) -> list[Difference]:
    try:
        old = fmt.decode_manifest(expected) if encoded else json.loads(expected)
        new = fmt.decode_manifest(got) if encoded else json.loads(got)
    except ValueError as error:
        return [Difference("body", "a manifest", got[:40], str(error))]
    kept, offered = old.get("unprotected"), new.get("unprotected")
    if isinstance(kept, dict) and isinstance(offered, dict):
        new["unprotected"] = {name: value for name, value in offered.items() if name in kept}
    return list(_compare_values("manifest", old, new, _equal_but_for_tasks))


def _equal_but_for_tasks(_field: str, old: Any, new: Any) -> bool:
    """Whether two values of a manifest are equal; of a task's id only kind and user count."""
    a, b = (UPID.match(value) if isinstance(value, str) else None for value in (old, new))
    return (a["type"], a["user"]) == (b["type"], b["user"]) if a and b else old == new


# --- JSON -------------------------------------------------------------------------------------


def _compare_json_bodies(exchange: Exchange, actual: Answer, rename: Callable[[str], str]) -> list[Difference]:
    try:
        new = actual.json()
    except ValueError as error:
        return [Difference("body", "JSON", actual.body[:60], str(error))]
    old = json.loads(exchange.response_body or b"null")
    new = _renamed(new, rename)
    if _is_task_log(exchange):
        return list(_compare_task_log(exchange, old, new))
    old, new = _without_manifest_sizes(old), _without_manifest_sizes(new)
    return list(_compare_values("", _sorted(exchange, old), _sorted(exchange, new), _equality(exchange)))


def _without_manifest_sizes(document: Any) -> Any:
    """Lists of files and snapshots without the manifest's encoded size, which depends on the zstd build."""
    if isinstance(document, list):
        return [_without_manifest_sizes(item) for item in document]
    if not isinstance(document, dict):
        return document
    if document.get("filename") == fmt.MANIFEST_NAME and type(document.get("size")) is int:
        return {**document, "size": min(document["size"], 0)}
    manifests = [
        item["size"]
        for item in document.get("files") or []
        if isinstance(item, dict) and item.get("filename") == fmt.MANIFEST_NAME and type(item.get("size")) is int
    ]
    walked = {name: _without_manifest_sizes(value) for name, value in document.items()}
    if manifests and type(document.get("size")) is int:
        walked["size"] = document["size"] - manifests[0]
    return walked


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, list):
        return [_renamed(item, rename) for item in value]
    if isinstance(value, dict):
        return {key: _renamed(item, rename) for key, item in value.items()}
    return value


def _sorted(exchange: Exchange, document: Any) -> Any:
    """Bring lists without a meaningful order into one."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        return document
    last, items = exchange.path.rstrip("/").rsplit("/", 1)[-1], document["data"]
    if not all(isinstance(item, dict) for item in items):
        return document
    for endpoint, _, names in UNORDERED:
        if last == endpoint and exchange.method == "GET":
            items = sorted(items, key=lambda item: [str(item.get(name)) for name in names])
    if last == "groups":
        items = [
            {**item, "files": sorted(item["files"], key=str)} if isinstance(item.get("files"), list) else item
            for item in items
        ]
    if items and all(set(item) == {"subdir"} for item in items):
        items = sorted(items, key=lambda item: str(item["subdir"]))
    return {**document, "data": items}


def json_type(value: Any) -> str:
    """Name of the JSON type, integers apart from fractions."""
    names = {bool: "boolean", int: "integer", float: "fraction", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names[type(value)]


def _compare_values(field: str, old: Any, new: Any, equal: Callable[[str, Any, Any], bool]) -> Iterator[Difference]:
    """Walk both values; `equal(field, old, new)` decides about leaves of equal type."""
    if json_type(old) != json_type(new):
        yield Difference(field, old, new, f"{json_type(old)} became {json_type(new)}")
    elif isinstance(old, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            path = f"{field}.{name}" if field else name
            if name not in new:
                yield Difference(path, old[name], None, "member is missing")
            elif name not in old:
                yield Difference(path, None, new[name], "member is not in the recording")
            else:
                yield from _compare_values(path, old[name], new[name], equal)
    elif isinstance(old, list):
        if len(old) != len(new):
            yield Difference(f"{field}[]", old, new, f"{len(old)} items became {len(new)}")
        else:
            for a, b in zip(old, new):
                yield from _compare_values(f"{field}[]", a, b, equal)
    elif not equal(field, old, new):
        yield Difference(field, old, new)


def _equality(exchange: Exchange) -> Callable[[str, Any, Any], bool]:
    """The rule for leaf values of this exchange's answer."""
    last = exchange.path.rstrip("/").rsplit("/", 1)[-1]
    opens_index = exchange.is_h2 and exchange.method == "POST" and last in ("dynamic_index", "fixed_index")
    space = last in ("status", "datastore-usage") and "/nodes/" not in exchange.path

    def equal(field: str, old: Any, new: Any) -> bool:
        name = field.rsplit(".", 1)[-1].removesuffix("[]")
        if opens_index and field == "data":
            return 1 <= new <= 256
        if isinstance(old, str) and UPID.match(old):
            return _same_task(old, new)
        if name in VARYING or name in GC_COUNTERS and ("gc" in field or last == "gc" or "cache-stats" in field):
            return _plausible(name, new)
        if name == "node":
            return bool(new)
        if space and name in ("total", "used", "avail"):
            return new > 0 if name == "total" else new >= 0
        if name in ("status", "exitstatus", "last-run-state") and isinstance(old, str):
            return outcome(old) == outcome(new)
        return type(old) is type(new) and old == new

    return equal


def _plausible(name: str, value: Any) -> bool:
    if name == "ticket":
        return re.search(r"^\S+:[0-9A-F]{8}::[^:\s]+$", value) is not None and ";" not in value
    if name == "pbs-instance-id":
        return re.fullmatch("[0-9a-f]{32}", value) is not None
    return value != "" and not (isinstance(value, int) and value < 0)


def outcome(text: str) -> str:
    """Class of a task's end: `OK`, warnings, still running, or any error text."""
    if text in ("OK", "running", "stopped", "unknown"):
        return text
    return "WARNINGS" if text.startswith("WARNINGS") else "error"


def _same_task(old: str, new: str) -> bool:
    a, b = UPID.match(old), UPID.match(new)
    return bool(a and b) and all(a[name] == b[name] for name in ("type", "id", "user"))


# --- task logs --------------------------------------------------------------------------------


def _is_task_log(exchange: Exchange) -> bool:
    return "/tasks/" in exchange.path and exchange.path.endswith("/log")


def _compare_task_log(exchange: Exchange, old: Any, new: Any) -> Iterator[Difference]:
    """Lines are free, but their numbering, `total` and the other members are what a client relies on."""
    yield from _compare_values(
        "",
        {k: v for k, v in old.items() if k != "data"},
        {k: v for k, v in new.items() if k != "data"},
        lambda field, a, b: field in ("total", "active") or a == b,
    )
    lines = new.get("data")
    if not isinstance(lines, list):
        yield Difference("data", "array", lines)
        return
    start, limit = max(int(exchange.query.get("start", 0)), 1), int(exchange.query.get("limit", 50))
    for expected, line in enumerate(lines, start):
        if not isinstance(line, dict) or line.get("n") != expected or not isinstance(line.get("t"), str):
            yield Difference("data[]", {"n": expected, "t": "text"}, line)
    total = new.get("total")
    if isinstance(total, int) and len(lines) != max(0, min(limit, total - start + 1)):
        yield Difference("data[]", f"lines {start} to min(total {total}, limit {limit})", f"{len(lines)} lines")
