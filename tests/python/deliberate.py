"""Where this server differs from the recordings on purpose, one reason each.

An entry applies to the answers of matching requests and excuses one field.  `accept` pins what the
server does instead, so that a deliberate difference cannot drift into an accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from comparison import Difference
from transcript import Exchange


@dataclass(frozen=True)
class Deliberate:
    """One permitted difference."""

    scenario: str
    """Pattern over scenario names (`*`, `?`)."""
    method: str
    path: str
    """Regular expression over the path, leading slashes collapsed, without query."""
    field: str
    """Pattern over `Difference.field`."""
    accept: Callable[[Any], bool]
    """Whether the server's value is the intended one."""
    reason: str
    seq: int | None = None
    """Only this exchange, where a path alone is too wide."""

    def covers(self, scenario: str, exchange: Exchange, difference: Difference) -> bool:
        """Whether this entry permits the difference."""
        return (
            fnmatchcase(scenario, self.scenario)
            and self.method in ("*", exchange.method)
            and re.fullmatch(self.path, exchange.path) is not None
            and self.seq in (None, exchange.seq)
            and fnmatchcase(difference.field, self.field)
            and self.accept(difference.actual)
        )


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _names(files: Any) -> list[str]:
    return [file.get("filename", "") for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def _more_tasks(value: Any) -> bool:
    """A count, or a list of tasks."""
    return isinstance(value, int) or isinstance(value, list) and all("upid" in task for task in value)


TABLE: tuple[Deliberate, ...] = (
    Deliberate(
        "*",
        "GET",
        r"/api2/json/version",
        "data.version",
        _matches(r"\d+\.\d+"),
        "The server states the version whose behaviour it offers; tools parse MAJOR.MINOR only.",
    ),
    Deliberate(
        "*",
        "GET",
        r"/api2/json/version",
        "data.release",
        _matches(r"\d+"),
        "As above; the patch level is numeric text.",
    ),
    Deliberate(
        "*",
        "GET",
        r"/api2/json/(admin/datastore/[^/]+/status|admin/datastore|status/datastore-usage)",
        "data*backend-type",
        _matches("s3"),
        "The recordings were made on file system datastores; an S3 datastore says so.",
    ),
    Deliberate(
        "*",
        "GET",
        r"/api2/json/admin/datastore/[^/]+/status",
        "data.s3-statistics",
        lambda value: isinstance(value, dict) and isinstance(value.get("get"), int),
        "As above; it also counts its requests.",
    ),
    Deliberate(
        "*",
        "GET",
        r"/api2/json/admin/datastore/[^/]+/status",
        "data.usage",
        lambda value: isinstance(value, dict) and isinstance(value.get("stored"), int),
        "The status also says how much is stored.",
    ),
    Deliberate(
        "h2-raw",
        "GET",
        r"/api2/json/admin/datastore/[^/]+/snapshots",
        "data*files*",
        lambda files: _names(files) == ["a.didx", "d.img.fidx", "x.conf.blob", "index.json.blob"],
        "A blob that was sent after the end of the backup is no part of the snapshot: its manifest is sealed and does "
        "not name it.",
        seq=428,
    ),
    Deliberate(
        "h2-raw",
        "POST",
        r"/fixed_close",
        "status",
        lambda status: status == 200,
        "The recorded server lost the temporary file of an index when a second one of the same name was "
        "refused; closing the first may as well succeed.",
        seq=351,
    ),
    Deliberate(
        "*",
        "POST",
        r"/api2/json/admin/datastore/[^/]+/prune",
        "data*.reason",
        _matches(r"keep-[a-z]+|protected|keep, not finished|remove|all|in use"),
        "Prune says why a snapshot stays.",
    ),
    Deliberate(
        "gc-tasks",
        "GET",
        r"/api2/json/admin/datastore/[^/]+/(gc|status)",
        "data*-chunks",
        lambda count: count == 0,
        "Garbage collection also counts chunks that are missing, refused, unknown and rescued.",
    ),
    Deliberate(
        "gc-tasks",
        "GET",
        r"/api2/json/admin/datastore/[^/]+/gc",
        "data.last-run-upid",
        _matches(r"UPID:.*:garbage_collection:.*"),
        "The task of the last run is named, as for all jobs.",
    ),
    Deliberate(
        "gc-tasks",
        "GET",
        r"/api2/json/nodes/localhost/tasks",
        "*",
        _more_tasks,
        "Several recordings are replayed on one server, which lists the tasks of all of them.",
    ),
    Deliberate(
        "rest-misc",
        "GET",
        r"/api2/json/(admin/datastore/[^/]+/gc|status/datastore-usage)",
        "data*",
        lambda _: True,
        "The recorded server kept the GC status and the usage history of earlier recordings in memory.",
    ),
)


def reason_for(scenario: str, exchange: Exchange, difference: Difference) -> str | None:
    """The reason why a difference is wanted, or None when it is not."""
    for entry in TABLE:
        if entry.covers(scenario, exchange, difference):
            return entry.reason
    return None
