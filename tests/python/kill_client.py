"""A client for a server that is killed: backs up without end and writes down what it was told.

    python kill_client.py run    --journal FILE --first N …   backups N, N+1, … until the server is gone
    python kill_client.py backup --number N …                 one backup with the content of number N, restored and compared,
                                                              and written down if there is a journal
    python kill_client.py verify --journal FILE [FILE …] …    restores every snapshot that the journals call finished, and
                                                              with --untold also those that were only begun and are there
                                                              all the same
    python kill_client.py check  --number N --journal FILE …  one backup, written down in the first journal, then `verify`

Common: --url --fingerprint --user --password --store --seed --group, and --pieces for backups of another size.

The journal has a JSON object per line, each written after the fact and before anything else is done:
`{"begun": N, "time": T, "group": ID}`, `{"acknowledged": DIGEST}`,
`{"finished": N, "time": T, "group": ID, "csum": SHA-256 of the content}`.
`run` ends with 0 when the connection breaks, which is what it waits for, and with 1 on any refusal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pbs_format as fmt
from http2 import Stream
from pbs_backup import restore
from pbs_client import ApiError, BackupSession, PbsClient, Snapshot, answer_data
from tls_channel import ConnectionEnded

ARCHIVE = "kill.didx"
IN_FLIGHT_MAX = 32
PIECES = (30, 90)
PIECE_BYTES = (48 << 10, 192 << 10)


def pieces(seed: int, number: int, bounds: Sequence[int] = PIECES) -> list[bytes]:
    """The content of one backup; every fourth piece is one of the backup before."""
    count = random.Random(f"{seed}/{number}").randint(*bounds)
    sources = [max(number - 1, 0) if i % 4 == 3 else number for i in range(count)]
    made = [random.Random(f"{seed}/{source}/{i}") for i, source in enumerate(sources)]
    return [rng.randbytes(rng.randint(*PIECE_BYTES)) for rng in made]


class Journal:
    """What was told, line by line."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, **entry: Any) -> None:
        """Append an entry; it is in the file when this returns."""
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()


def collect(waiting: list[tuple[Stream, str]], journal: Journal | None, most: int) -> None:
    """Take answers, in whatever order they come, until at most `most` uploads are unanswered."""
    while True:
        for entry in [entry for entry in waiting if entry[0].done]:
            waiting.remove(entry)
            stream, digest = entry
            if answer_data("chunk", stream.wait()) != digest:
                raise AssertionError(f"another digest was acknowledged than {digest}")
            if journal is not None:
                journal.write(acknowledged=digest)
        if len(waiting) <= most:
            return
        waiting[0][0].connection.wait_for(lambda: any(stream.done for stream, _ in waiting), 120.0, "an answer")


def upload(session: BackupSession, content: list[bytes], known: set[str], journal: Journal | None) -> dict[str, Any]:
    """Write the archive; returns its manifest entry."""
    wid = session.create_dynamic(ARCHIVE)
    waiting: list[tuple[Stream, str]] = []
    entries, end = [], 0
    for piece in content:
        digest = fmt.chunk_digest(piece)
        end += len(piece)
        entries.append((end, digest))
        if digest in known:
            continue
        known.add(digest)
        waiting.append((session.start_chunk("dynamic", wid, digest, len(piece), fmt.encode_blob(piece)), digest))
        collect(waiting, journal, IN_FLIGHT_MAX - 1)
    collect(waiting, journal, 0)
    index = fmt.DynamicIndex(entries)
    session.append("dynamic", wid, index.digests, [start for start, _, _ in index.chunks()])
    session.close_index("dynamic", wid, len(entries), index.size, index.csum())
    return fmt.manifest_file(ARCHIVE, index.size, index.csum())


def back_up(client: PbsClient, args: argparse.Namespace, number: int, at: int, journal: Journal | None) -> Snapshot:
    """One backup, with the chunks of the last one known if there is one."""
    snapshot = Snapshot("host", args.group, at)
    content = pieces(args.seed, number, args.pieces)
    with client.backup(args.store, snapshot) as session:
        if journal is not None:
            journal.write(begun=number, time=at, group=args.group)
        known: set[str] = set()
        if session.previous_time() is not None:
            try:
                known.update(fmt.decode_index(session.previous(ARCHIVE)).digests)
            except ApiError as error:
                # The server does not know any more whether they are there: everything is sent.
                if "is missing" not in str(error):
                    raise
        entry = upload(session, content, known, journal)
        session.upload_manifest(snapshot, [entry])
        session.finish()
    if journal is not None:
        journal.write(finished=number, time=at, group=args.group, csum=hashlib.sha256(b"".join(content)).hexdigest())
    return snapshot


def next_time(client: PbsClient, args: argparse.Namespace) -> int:
    """A time later than those of all backups of the group, of those that were only begun, and than the server's start."""
    listed = client.call("GET", f"/admin/datastore/{args.store}/groups")
    last = [entry["last-backup"] for entry in listed if entry["backup-id"] == args.group]
    last += [entry["time"] for entry in entries(args.journal) if entry.get("group") == args.group]
    return max([int(time.time()) + 1, *(value + 1 for value in last)])


def run(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """Back up until the connection breaks, or none can be made any more."""
    number = args.first
    with open(args.journal[0], "a", encoding="utf-8") as file:
        journal = Journal(file)
        try:
            at = next_time(client, args)
            while True:
                back_up(client, args, number, at, journal)
                number, at = number + 1, max(at, int(time.time())) + 1
        except ApiError:
            raise
        except (ConnectionEnded, ConnectionError, OSError) as error:
            return {"what": "run", "ok": True, "ended_in": number, "how": str(error)[:200]}


def entries(paths: list[str]) -> Iterator[dict[str, Any]]:
    """All entries of the journals."""
    for path in paths:
        if Path(path).exists():
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                yield json.loads(line)


def verify(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """Restore what was finished, and what is there although nobody was told that it was finished."""
    failures, count, untold = [], 0, 0
    listed = client.call("GET", f"/admin/datastore/{args.store}/snapshots")
    there = {(entry["backup-id"], entry["backup-time"]) for entry in listed}
    begun: dict[tuple[str, int], int] = {}
    finished: dict[tuple[str, int], str] = {}
    for entry in entries(args.journal):
        if "begun" in entry:
            begun[entry["group"], entry["time"]] = entry["begun"]
        if "finished" in entry:
            finished[entry["group"], entry["time"]] = entry["csum"]
    for key, number in begun.items():
        if key in finished:
            count, csum = count + 1, finished[key]
        elif args.untold and key in there:
            content = b"".join(pieces(args.seed, number, args.pieces))
            untold, csum = untold + 1, hashlib.sha256(content).hexdigest()
        else:
            continue
        snapshot = Snapshot("host", *key)
        try:
            content = restore(client, args.store, snapshot)[ARCHIVE]
            if hashlib.sha256(content).hexdigest() != csum:
                failures.append(f"{snapshot} has other content")
        except (ApiError, AssertionError, KeyError, fmt.FormatError) as error:
            failures.append(f"{snapshot}: {type(error).__name__}: {error}")
    restored = count + untold - len(failures)
    return {"what": "verify", "ok": not failures, "restored": restored, "untold": untold, "failures": failures[:10]}


def backup(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """One backup, restored and compared."""
    snapshot = back_up_next(client, args)
    content = b"".join(pieces(args.seed, args.number, args.pieces))
    equal = restore(client, args.store, snapshot)[ARCHIVE] == content
    return {"what": "backup", "ok": equal, "time": snapshot.backup_time}


def back_up_next(client: PbsClient, args: argparse.Namespace) -> Snapshot:
    """One backup at the next time, written down if there is a journal."""
    at = next_time(client, args)
    if args.journal:
        with open(args.journal[0], "a", encoding="utf-8") as file:
            return back_up(client, args, args.number, at, Journal(file))
    return back_up(client, args, args.number, at, None)


def check(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """One backup more, and everything that was finished."""
    back_up_next(client, args)
    return {**verify(client, args), "what": "check"}


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "backup", "verify", "check"))
    for name in ("url", "fingerprint", "user", "password", "store", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, default=1, help="seed of all content")
    parser.add_argument("--pieces", type=int, nargs=2, default=PIECES, help="least and most pieces of a backup")
    parser.add_argument("--untold", action="store_true", help="also what nobody was told of; all backups are in the journals")
    parser.add_argument("--journal", nargs="*", default=[], help="journals")
    parser.add_argument("--first", type=int, default=0, help="number of the first backup")
    parser.add_argument("--number", type=int, default=0, help="which backup")
    args = parser.parse_args()
    client = PbsClient(args.url, args.fingerprint, user=args.user, password=args.password)
    figures = {"run": run, "backup": backup, "verify": verify, "check": check}[args.what](client, args)
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
