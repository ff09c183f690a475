"""Uploads chunks for as long as the server lives and prints each digest that it has acknowledged.

    python acknowledged.py --url … --fingerprint … --user … --password … --store S --seed 1 --chunks 100

One line of standard output for each answer, written at once, so that a harness that kills the server
knows what it was told. The last line is `finished` when the whole backup was. The backup is
`host/acknowledged-SEED`; its chunks are noise from the seed. Exit status: 0 also when the server has
gone away, 1 when it refused something.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque

import pbs_format as fmt
from pbs_client import ApiError, PbsClient, Snapshot, answer_data

IN_FLIGHT = 4


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="https://HOST:PORT")
    parser.add_argument("--fingerprint", help="SHA-256 of the certificate")
    parser.add_argument("--user", required=True, help="who backs up")
    parser.add_argument("--password", required=True, help="the password")
    parser.add_argument("--store", required=True, help="the datastore")
    parser.add_argument("--seed", type=int, required=True, help="seed of the content")
    parser.add_argument("--chunks", type=int, default=60, help="how many chunks")
    parser.add_argument("--chunk-bytes", type=int, default=100_000, help="bytes of a chunk")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    client = PbsClient(args.url, args.fingerprint, user=args.user, password=args.password)
    snapshot = Snapshot("host", f"acknowledged-{args.seed}", 1_700_000_000)
    try:
        with client.backup(args.store, snapshot) as session:
            wid = session.create_dynamic("noise.didx")
            waiting: deque = deque()
            entries: list[tuple[int, str]] = []
            for number in range(args.chunks + IN_FLIGHT):
                if number < args.chunks:
                    plain = rng.randbytes(args.chunk_bytes)
                    digest = fmt.chunk_digest(plain)
                    stream = session.start_chunk("dynamic", wid, digest, len(plain), fmt.encode_blob(plain))
                    waiting.append((digest, stream))
                if waiting and (len(waiting) >= IN_FLIGHT or number >= args.chunks):
                    digest, stream = waiting.popleft()
                    answer_data("chunk", stream.wait())
                    print(digest, flush=True)
                    entries.append((args.chunk_bytes * (len(entries) + 1), digest))
            index = fmt.DynamicIndex(entries)
            session.append("dynamic", wid, index.digests, [end - args.chunk_bytes for end, _ in entries])
            session.close_index("dynamic", wid, len(entries), index.size, index.csum())
            file = fmt.manifest_file("noise.didx", index.size, index.csum(), "none")
            session.upload_manifest(snapshot, [file])
            session.finish()
            print("finished", flush=True)
    except ApiError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, EOFError) as error:
        print(f"the server has gone away: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
