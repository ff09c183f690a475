"""Compares what a server shows of the fixture datastore with what `fixture_bucket.py` said it holds.

    python fixture_bucket.py dir --path DIRECTORY > expected.json
    python check_fixture.py --url … --fingerprint … --user … --password … --store S --expected expected.json

Namespaces, groups with owners and notes, finished snapshots with their files, protection, notes and
verify state; then every file of every snapshot is read through a reader session, verified against the
manifest, and its content compared.  Further snapshots and groups may be there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pbs_format as fmt
from pbs_backup import restore
from pbs_client import PbsClient, Snapshot


class Check:
    """Collects what differs."""

    def __init__(self, client: PbsClient, store: str, expected: dict[str, Any]) -> None:
        """`expected` is the fixture's description."""
        self.client, self.store, self.expected = client, store, expected
        self.faults: list[str] = []
        self.files = 0

    def same(self, what: str, found: Any, wanted: Any) -> None:
        """Notes a difference."""
        if found != wanted:
            self.faults.append(f"{what}: {found!r} instead of {wanted!r}")

    def get(self, what: str, **query: Any) -> Any:
        """Data of a call on the datastore."""
        return self.client.call("GET", f"/admin/datastore/{self.store}/{what}", query=query)

    def run(self) -> None:
        """Everything."""
        namespaces = {entry["ns"] for entry in self.get("namespace")}
        for ns in self.expected["namespaces"]:
            self.same(f"namespace {ns!r}", ns in namespaces, True)
            self._groups(ns)
            self._snapshots(ns)

    def _groups(self, ns: str) -> None:
        found = {f"{g['backup-type']}/{g['backup-id']}": g for g in self.get("groups", ns=ns)}
        for group in self.expected["groups"]:
            if group["ns"] == ns:
                name = group["group"]
                entry = found.get(name, {})
                self.same(f"owner of {ns}:{name}", entry.get("owner"), group["owner"])
                if group["notes"] is not None:
                    self.same(f"comment of {ns}:{name}", entry.get("comment"), group["notes"].split("\n")[0])

    def _snapshots(self, ns: str) -> None:
        listed = {
            (s["backup-type"], s["backup-id"], s["backup-time"]): s for s in self.get("snapshots", ns=ns)
        }
        for snapshot in self.expected["snapshots"]:
            if snapshot["ns"] != ns:
                continue
            key = (snapshot["backup-type"], snapshot["backup-id"], snapshot["backup-time"])
            entry = listed.get(key)
            if not snapshot["finished"]:
                self.same(f"{ns}:{key} without a manifest has a size", "size" in (entry or {}), False)
            elif entry is None:
                self.faults.append(f"{ns}:{key} is not listed")
            else:
                self._snapshot(snapshot, entry)

    def _snapshot(self, snapshot: dict[str, Any], entry: dict[str, Any]) -> None:
        name = snapshot["path"]
        wanted = {(f["filename"], f["crypt-mode"], f["size"]) for f in snapshot["files"]}
        found = {(f["filename"], f.get("crypt-mode"), f.get("size")) for f in entry["files"]}
        self.same(f"files of {name} missing", wanted - found, set())
        names = {f["filename"] for f in entry["files"]}
        self.same(f"log of {name}", "client.log.blob" in names, snapshot["log"])
        self.same(f"protection of {name}", entry["protected"], snapshot["protected"])
        self.same(f"fingerprint of {name}", entry.get("fingerprint"), snapshot["fingerprint"])
        if snapshot["notes"] is not None:
            self.same(f"comment of {name}", entry.get("comment"), snapshot["notes"].split("\n")[0])
        self.same(f"verification of {name}", "verification" in entry, snapshot["verified"])
        self._content(snapshot)

    def _content(self, snapshot: dict[str, Any]) -> None:
        wanted = Snapshot(
            snapshot["backup-type"], snapshot["backup-id"], snapshot["backup-time"], snapshot["ns"]
        )
        key = fmt.Key(bytes.fromhex(self.expected["key"])) if snapshot["fingerprint"] else None
        try:
            contents = restore(self.client, self.store, wanted, key=key)
        except Exception as error:  # noqa: BLE001  one snapshot that cannot be read must not hide the others
            self.faults.append(f"{snapshot['path']} cannot be read: {type(error).__name__}: {error}")
            return
        for file in snapshot["files"]:
            self.files += 1
            found = hashlib.sha256(contents.get(file["filename"], b"")).hexdigest()
            self.same(f"content of {snapshot['path']}/{file['filename']}", found, file["content-sha256"])


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="https://HOST:PORT")
    parser.add_argument("--fingerprint", help="SHA-256 of the certificate")
    parser.add_argument("--user", required=True, help="who reads; needs rights on everything")
    parser.add_argument("--password", required=True, help="the password")
    parser.add_argument("--store", required=True, help="the datastore")
    parser.add_argument("--expected", type=Path, required=True, help="output of fixture_bucket.py")
    args = parser.parse_args()
    client = PbsClient(args.url, args.fingerprint, user=args.user, password=args.password)
    check = Check(client, args.store, json.loads(args.expected.read_text()))
    check.run()
    for fault in check.faults:
        print(fault, file=sys.stderr)
    print(f"{check.files} files compared, {len(check.faults)} differences")
    return 1 if check.faults or not check.files else 0


if __name__ == "__main__":
    sys.exit(main())
