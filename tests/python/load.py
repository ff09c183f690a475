"""Load on a running server, with figures: what arrives is checked byte for byte.

    python load.py streams  --url … --fingerprint … --user … --password … --store S
    python load.py sessions --url … --fingerprint … --user … --password … --store S

`streams`: one backup session uploads many chunks at once, one DATA frame of each stream in turn, so
that all bodies stay half received as long as possible; then everything is restored and compared.
`sessions`: many backup and reader sessions at the same time, each checking what it reads.
Output: one JSON line; exit status 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pbs_format as fmt
from http2 import AUTHORITY, Stream
from pbs_backup import backup_dynamic, restore
from pbs_client import BackupSession, PbsClient, Snapshot, answer_data, encode_query

STALL_SECONDS_MAX = 60.0


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile in milliseconds."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


class Upload:
    """One chunk on its way, sent frame by frame."""

    def __init__(self, session: BackupSession, wid: int, plain: bytes, frame_bytes: int) -> None:
        self.digest, self.size, self.frame_bytes = fmt.chunk_digest(plain), len(plain), frame_bytes
        self.blob, self.sent = fmt.encode_blob(plain), 0
        query = {"wid": wid, "digest": self.digest, "size": self.size, "encoded-size": len(self.blob)}
        head = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", AUTHORITY),
            (":path", "/dynamic_chunk?" + encode_query(query)),
            ("content-type", "application/octet-stream"),
        ]
        self.started = time.monotonic()
        self.stream: Stream = session.h2.open(head, end=False)

    @property
    def complete(self) -> bool:
        """Whether the whole body is on its way."""
        return self.sent == len(self.blob)

    def send_frame(self) -> bool:
        """Send the next frame; False when the windows have no room for it."""
        data = self.blob[self.sent : self.sent + self.frame_bytes]
        if not self.stream.connection.try_send_frame(self.stream, data, self.sent + len(data) == len(self.blob)):
            return False
        self.sent += len(data)
        return True


def interleave(
    session: BackupSession, wid: int, pieces: list[bytes], streams: int, frame_bytes: int
) -> tuple[list[Upload], list[float], float]:
    """Upload all pieces with up to `streams` open at once; returns uploads, answer times, longest stall."""
    waiting, running, done = deque(pieces), deque[Upload](), []
    latencies: list[float] = []
    longest_stall, last_progress = 0.0, time.monotonic()
    while waiting or running:
        for upload in [u for u in running if u.complete and u.stream.done]:
            answer_data("chunk", upload.stream.wait())
            latencies.append(time.monotonic() - upload.started)
            running.remove(upload)
        while waiting and len(running) < streams:
            upload = Upload(session, wid, waiting.popleft(), frame_bytes)
            running.append(upload)
            done.append(upload)
        progress = False
        for upload in running:
            progress = not upload.complete and upload.send_frame() or progress
        now = time.monotonic()
        if progress or not running or any(u.complete and u.stream.done for u in running):
            last_progress = now
            continue
        longest_stall = max(longest_stall, now - last_progress)
        if longest_stall > STALL_SECONDS_MAX:
            raise TimeoutError(f"no stream made progress in {STALL_SECONDS_MAX} s")
        try:
            session.h2.wait_for_progress(0.05)
        except TimeoutError:
            pass  # measured above
    return done, latencies, longest_stall


def run_streams(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """Many interleaved uploads on one connection."""
    rng = random.Random(args.seed)
    pieces = [rng.randbytes(args.chunk_bytes) for _ in range(args.chunks or args.streams)]
    snapshot = Snapshot("host", f"load-streams-{args.seed}", int(time.time()))
    started = time.monotonic()
    with client.backup(args.store, snapshot) as session:
        allowed = min(args.streams, session.h2.streams_max())
        wid = session.create_dynamic("load.didx")
        uploads, latencies, stall = interleave(session, wid, pieces, allowed, args.frame_bytes)
        seconds = time.monotonic() - started
        ends = [sum(len(p) for p in pieces[: i + 1]) for i in range(len(pieces))]
        index = fmt.DynamicIndex([(end, upload.digest) for end, upload in zip(ends, uploads)])
        session.append("dynamic", wid, index.digests, [start for start, _, _ in index.chunks()])
        session.close_index("dynamic", wid, len(pieces), index.size, index.csum())
        session.upload_manifest(snapshot, [fmt.manifest_file("load.didx", index.size, index.csum())])
        session.finish()
    equal = restore(client, args.store, snapshot)["load.didx"] == b"".join(pieces)
    client.request("DELETE", f"/admin/datastore/{args.store}/groups", query=snapshot.group())
    total = sum(map(len, pieces))
    return {
        "what": "streams",
        "ok": equal,
        "streams": allowed,
        "chunks": len(pieces),
        "bytes": total,
        "seconds": round(seconds, 3),
        "mb_per_second": round(total / seconds / 1e6, 1),
        "answer_ms": {"median": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99)},
        "longest_stall_ms": round(1000 * stall, 1),
    }


def run_sessions(client: PbsClient, args: argparse.Namespace) -> dict[str, Any]:
    """Backup and reader sessions at the same time, a thread each."""
    now = int(time.time())
    contents = {n: random.Random(args.seed * 1000 + n).randbytes(args.session_bytes) for n in range(args.readers)}
    bases = {n: Snapshot("host", f"load-r{n}", now) for n in contents}
    for number, base in bases.items():
        backup_dynamic(client, args.store, base, "base.didx", contents[number], chunk_bytes=args.chunk_bytes)
    failures: list[str] = []
    times: dict[str, list[float]] = {"backup": [], "restore": []}
    begin = threading.Barrier(args.backups + args.readers + 1)

    def run(kind: str, action: Callable[[], None]) -> None:
        try:
            begin.wait(60)
            started = time.monotonic()
            action()
            times[kind].append(time.monotonic() - started)
        except Exception as error:  # reported in the figures, whatever it is
            failures.append(f"{kind}: {type(error).__name__}: {error}")

    def back_up(number: int) -> None:
        snapshot = Snapshot("host", f"load-b{number}", now)
        data = random.Random(args.seed * 2000 + number).randbytes(args.session_bytes)
        backup_dynamic(client, args.store, snapshot, "new.didx", data, chunk_bytes=args.chunk_bytes)
        if restore(client, args.store, snapshot) != {"new.didx": data}:
            raise AssertionError("restored content differs")

    def read(number: int) -> None:
        if restore(client, args.store, bases[number]) != {"base.didx": contents[number]}:
            raise AssertionError("restored content differs")

    jobs = [("backup", lambda n=n: back_up(n)) for n in range(args.backups)]
    jobs += [("restore", lambda n=n: read(n)) for n in range(args.readers)]
    threads = [threading.Thread(target=run, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    begin.wait(60)
    started = time.monotonic()
    for thread in threads:
        thread.join(args.seconds_max)
    seconds = time.monotonic() - started
    unfinished = sum(thread.is_alive() for thread in threads)
    for group in [f"load-b{n}" for n in range(args.backups)] + [f"load-r{n}" for n in range(args.readers)]:
        query = {"backup-type": "host", "backup-id": group}
        client.request("DELETE", f"/admin/datastore/{args.store}/groups", query=query)
    return {
        "what": "sessions",
        "ok": not failures and not unfinished,
        "backups": args.backups,
        "readers": args.readers,
        "session_bytes": args.session_bytes,
        "seconds": round(seconds, 3),
        "unfinished": unfinished,
        "mb_per_second": round((2 * args.backups + args.readers) * args.session_bytes / seconds / 1e6, 1),
        **{f"{kind}_ms": {"median": percentile(v, 0.5), "p99": percentile(v, 0.99)} for kind, v in times.items()},
        "failures": failures[:10],
    }


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("streams", "sessions"), help="which load")
    parser.add_argument("--url", required=True, help="https://HOST:PORT")
    parser.add_argument("--fingerprint", help="SHA-256 of the certificate")
    parser.add_argument("--user", help="user id; with --password")
    parser.add_argument("--password", help="its password")
    parser.add_argument("--token", help="TOKENID:SECRET instead of user and password")
    parser.add_argument("--store", required=True, help="datastore")
    parser.add_argument("--seed", type=int, default=1, help="seed of all content")
    parser.add_argument("--streams", type=int, default=200, help="uploads open at once")
    parser.add_argument("--chunks", type=int, help="chunks in all (default: one for each stream)")
    parser.add_argument("--chunk-bytes", type=int, default=256 * 1024, help="size of a chunk")
    parser.add_argument("--frame-bytes", type=int, default=16 * 1024, help="size of a DATA frame")
    parser.add_argument("--backups", type=int, default=64, help="backup sessions at once")
    parser.add_argument("--readers", type=int, default=64, help="reader sessions at once")
    parser.add_argument("--session-bytes", type=int, default=1 << 20, help="content of one session")
    parser.add_argument("--seconds-max", type=float, default=300.0, help="bound on waiting for a session")
    args = parser.parse_args()
    token = tuple(args.token.rsplit(":", 1)) if args.token else None
    client = PbsClient(args.url, args.fingerprint, user=args.user, password=args.password, token=token)
    client.credentials("GET")
    figures = (run_streams if args.what == "streams" else run_sessions)(client, args)
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
