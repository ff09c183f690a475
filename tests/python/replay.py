"""Replays recorded sessions of stock clients against a server and compares every answer.

    python replay.py --url https://127.0.0.1:PORT --fingerprint FP --store store1 SCENARIO…
    python replay.py --self-check

Each recording starts from an empty datastore.  `{scenario}` in `--store`/`--store2` is replaced by the
recording's name, so that a harness can prepare one datastore for each; otherwise `--reset` names a
command that empties the server between recordings.  Accounts: see `accounts.py`.
Exit status: 0 all equal or deliberately different, 1 unexpected differences, 2 could not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import accounts
import self_check
import transcript
from comparison import Difference, compare
from deliberate import reason_for
from mapping import Mapping
from replay_transport import LiveTransport, Transport
from transcript import Exchange, Step, TimelineEntry, Transcript

REQUIRED = (
    "login-version-status backup-legacy backup-now backup-many-chunks backup-data-mode backup-metadata-mode "
    "backup-image backup-encrypted restore-catalog killed-upload concurrent-backup older-time refused-login "
    "api-token benchmark client-3-2 h2-raw"
).split()


@dataclass
class Finding:
    """One difference at one exchange."""

    seq: int
    title: str
    difference: Difference
    reason: str | None

    def as_json(self) -> dict[str, Any]:
        """For the report file."""
        d = self.difference
        return {
            "seq": self.seq,
            "request": self.title,
            "field": d.field,
            "expected": _short(d.expected),
            "actual": _short(d.actual),
            "note": d.note,
            "reason": self.reason,
        }


@dataclass
class Result:
    """Outcome of one scenario."""

    scenario: str
    sent: int = 0
    equal: int = 0
    unanswered: int = 0
    deliberate: list[Finding] = field(default_factory=list)
    unexpected: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, findings: list[Finding]) -> int:
        """How many exchanges the findings concern."""
        return len({finding.seq for finding in findings})

    def as_json(self) -> dict[str, Any]:
        """For the report file."""
        return {
            "scenario": self.scenario,
            "sent": self.sent,
            "equal": self.equal,
            "unanswered": self.unanswered,
            "deliberate": [f.as_json() for f in self.deliberate],
            "unexpected": [f.as_json() for f in self.unexpected],
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }


def _short(value: Any) -> Any:
    text = repr(value)
    return value if isinstance(value, (int, str, type(None))) and len(text) <= 300 else text[:300]


class Replayer:
    """Runs one recording over a transport."""

    def __init__(self, recording: Transcript, transport: Transport, mapping: Mapping, settle: float = 5.0) -> None:
        """`settle` bounds how long a plain GET is repeated while its answer still differs.

        Work that a server does after a connection has ended (removing an abandoned snapshot, writing a
        task's end) takes a moment; the recorded client came later than a replay does.
        """
        self.recording, self.transport, self.mapping, self.settle = recording, transport, mapping, settle
        self.result = Result(recording.name)
        self.lost: dict[int, str] = {}

    def run(self) -> Result:
        """Follow the timeline to its end."""
        started = time.monotonic()
        for entry in self.recording.timeline():
            if entry.exchange is not None:
                self._exchange_step(entry, entry.exchange)
            else:
                self._connection_step(entry)
        self.result.seconds = time.monotonic() - started
        return self.result

    def _exchange_step(self, entry: TimelineEntry, exchange: Exchange) -> None:
        if entry.step != Step.ANSWER and exchange.conn in self.lost:
            return
        try:
            if entry.step == Step.HEAD:
                self._send_head(exchange)
            elif entry.step == Step.BODY:
                self.transport.send_body(exchange, self.mapping.body(exchange))
            else:
                self._take_answer(exchange)
        except (OSError, KeyError, ValueError) as error:
            self.lost.setdefault(exchange.conn, f"{type(error).__name__}: {error}")
            if entry.step == Step.ANSWER:
                self._find(exchange, [Difference("connection", "an answer", self.lost[exchange.conn])])

    def _send_head(self, exchange: Exchange) -> None:
        mapping = self.mapping
        self.transport.send_head(exchange, mapping.target(exchange), mapping.headers(exchange), mapping.body(exchange))
        self.result.sent += 1
        if exchange.status is None:
            self.result.unanswered += 1

    def _take_answer(self, exchange: Exchange) -> None:
        if exchange.conn in self.lost:
            self._find(exchange, [Difference("connection", "an answer", None, self.lost[exchange.conn])])
            return
        answer = self.transport.answer(exchange)
        differences = compare(exchange, answer, self.mapping.recorded_name)
        deadline, attempts = time.monotonic() + self.settle, 1
        while self._unexpected(exchange, differences) and self._may_repeat(exchange) and time.monotonic() < deadline:
            time.sleep(0.1)
            self._send_again(exchange)
            answer = self.transport.answer(exchange)
            differences = compare(exchange, answer, self.mapping.recorded_name)
            attempts += 1
        if attempts > 1:
            self.result.notes.append(f"seq {exchange.seq}: {exchange.title}: asked {attempts} times")
        self.mapping.learn(exchange, answer)
        if exchange.status == 101 and answer.status != 101:
            self.lost[exchange.conn] = "the upgrade was refused"
        self._find(exchange, differences)

    def _send_again(self, exchange: Exchange) -> None:
        mapping = self.mapping
        head = (exchange, mapping.target(exchange), mapping.headers(exchange), mapping.body(exchange))
        try:
            self.transport.send_head(*head)
        except OSError:
            self.transport.connect(exchange.conn)
            self.transport.send_head(*head)

    def _may_repeat(self, exchange: Exchange) -> bool:
        return not exchange.is_h2 and exchange.method == "GET" and self.settle > 0

    def _unexpected(self, exchange: Exchange, differences: list[Difference]) -> bool:
        return any(reason_for(self.recording.name, exchange, d) is None for d in differences)

    def _find(self, exchange: Exchange, differences: list[Difference]) -> None:
        if not differences:
            self.result.equal += 1
        for difference in differences:
            reason = reason_for(self.recording.name, exchange, difference)
            finding = Finding(exchange.seq, exchange.title, difference, reason)
            (self.result.unexpected if reason is None else self.result.deliberate).append(finding)

    def _connection_step(self, entry: TimelineEntry) -> None:
        conn, step = entry.conn, entry.step
        try:
            if step == Step.CONNECT:
                self.transport.connect(conn)
            elif step == Step.TLS_FAILED:
                self.transport.refuse_certificate(conn)
            elif step == Step.CLIENT_EVENT and conn not in self.lost:
                self.transport.client_event(conn, entry.event)
            elif step == Step.CLIENT_END:
                self.transport.end(conn, entry.event["how"] == "close_notify")
            elif step == Step.SERVER_END and not self.transport.wait_for_end(conn):
                self.result.notes.append(f"seq {entry.seq}: server keeps connection {conn} open after its end")
        except OSError as error:
            self.lost.setdefault(conn, f"{type(error).__name__}: {error}")
            self.result.notes.append(f"seq {entry.seq}: connection {conn}: {error}")


def print_results(results: list[Result], *, details_max: int = 20) -> None:
    """The table, then the unexpected differences."""
    print(f"{'scenario':24}{'sent':>6}{'equal':>7}{'deliberate':>12}{'unexpected':>12}{'seconds':>9}")
    for r in results:
        counts = f"{r.sent:6}{r.equal:7}{r.count(r.deliberate):12}{r.count(r.unexpected):12}{r.seconds:9.1f}"
        print(f"{r.scenario:24}{counts}")
    for r in results:
        for finding in r.unexpected[:details_max]:
            print(f"\n{r.scenario} seq {finding.seq}: {finding.title}\n  {finding.difference}")
        if len(r.unexpected) > details_max:
            print(f"\n{r.scenario}: {len(r.unexpected) - details_max} more differences")
        for note in r.notes:
            print(f"{r.scenario}: {note}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="names of recordings; none: the required ones; `all`: all")
    parser.add_argument("--url", help="base URL of the server, https://HOST:PORT")
    parser.add_argument("--fingerprint", help="SHA-256 of its certificate; absent: not checked")
    parser.add_argument("--store", default="store1", help="datastore that stands for store1; may hold {scenario}")
    parser.add_argument("--store2", default="store2", help="datastore that stands for store2; may hold {scenario}")
    parser.add_argument("--token-secret", help="secret of tester@pbs!tok; absent with --setup-user: a new one is made")
    parser.add_argument("--setup-user", help="administrator that creates the recorded accounts")
    parser.add_argument("--setup-password", help="its password")
    parser.add_argument("--reset", help="shell command that empties the server before each recording")
    parser.add_argument("--dir", help="directory of the recordings (default: HOLDFAST_TRANSCRIPTS)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds a differing plain GET is repeated")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for one answer")
    parser.add_argument("--report", help="file for the JSON report")
    parser.add_argument("--self-check", action="store_true", help="check parser, scheduler and comparison, no server")
    return parser.parse_args()


def main() -> int:
    """Command line entry."""
    args = _arguments()
    if args.scenarios == ["all"] or args.self_check and not args.scenarios:
        paths = transcript.files(args.dir)
    else:
        paths = [transcript.find(name, args.dir) for name in args.scenarios or REQUIRED]
    if args.self_check:
        return self_check.run(paths)
    if not args.url:
        print("--url is missing: name the server to replay against, or use --self-check", file=sys.stderr)
        return 2
    url = urlsplit(args.url)
    host, port = url.hostname or "127.0.0.1", url.port or 8007
    secret = args.token_secret
    if args.setup_user:
        secret = accounts.create(args.url, args.fingerprint, args.setup_user, args.setup_password) or secret
    results = []
    for path in paths:
        recording = transcript.load(path)
        if args.reset:
            subprocess.run(args.reset, shell=True, check=True)
        stores = {"store1": args.store, "store2": args.store2}
        stores = {old: new.replace("{scenario}", recording.name) for old, new in stores.items()}
        live = LiveTransport(host, port, args.fingerprint, args.timeout)
        results.append(Replayer(recording, live, Mapping(f"{host}:{port}", secret, stores), args.settle).run())
    print_results(results)
    if args.report:
        with open(args.report, "w", encoding="utf-8") as handle:
            json.dump([result.as_json() for result in results], handle, indent=1)
    return 1 if any(result.unexpected for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
