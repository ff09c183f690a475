"""moto's S3 server with all requests serialised, as a second, foreign S3 implementation.

    python moto_locked.py --port 0 --log requests.jsonl --bucket backups --seconds 600

Unlocked, moto sometimes lets two conditional writers win; one lock around its WSGI application makes
`If-None-Match` atomic.  Bodies are read before the lock is taken, so a slow client blocks nobody.
The first output line is JSON with the port.  Every request is one JSON line in the log: method, path,
query, status, request and response bytes; request budgets are asserted from it.  The process ends
when its parent has ended or the time is over, whichever comes first.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SECONDS_MAX = 24 * 3600


class LockedLogged:
    """WSGI wrapper: one request at a time, each written to the log when it is answered."""

    def __init__(self, app: Callable[..., Iterable[bytes]], log: TextIO | None) -> None:
        self.app, self.log, self.lock = app, log, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = self._read_body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        status: list[str] = []

        def remember(line: str, headers: Any, exc_info: Any = None) -> Any:
            status.append(line)
            return start_response(line, headers, exc_info)

        with self.lock:
            answer = self.app(environ, remember)
            try:
                parts = list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()  # type: ignore[attr-defined]
            self._write(environ, status[-1], len(body), sum(map(len, parts)))
        return parts

    @staticmethod
    def _read_body(environ: dict[str, Any]) -> bytes:
        source = environ["wsgi.input"]
        if environ.get("wsgi.input_terminated"):
            return source.read()
        return source.read(int(environ.get("CONTENT_LENGTH") or 0))

    def _write(self, environ: dict[str, Any], status: str, received: int, sent: int) -> None:
        if self.log is None:
            return
        line = {
            "t": round(time.time(), 4),
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "query": environ.get("QUERY_STRING", ""),
            "status": int(status.split()[0]),
            "if_none_match": environ.get("HTTP_IF_NONE_MATCH"),
            "if_match": environ.get("HTTP_IF_MATCH"),
            "received": received,
            "sent": sent,
        }
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()


def end_with_parent(parent: int, seconds: float) -> None:
    """End the process when the parent is gone or the time is over."""
    deadline = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.2)
    os._exit(0)


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 picks a free one")
    parser.add_argument("--log", help="file for the request log (appended)")
    parser.add_argument("--bucket", action="append", default=[], help="bucket to create; may be repeated")
    parser.add_argument("--seconds", type=float, default=600.0, help="life time bound")
    args = parser.parse_args()
    if not 0 < args.seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be between 0 and {SECONDS_MAX}")
    threading.Thread(target=end_with_parent, args=(os.getppid(), args.seconds), daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    log = open(args.log, "a", encoding="utf-8") if args.log else None
    app = LockedLogged(DomainDispatcherApplication(create_backend_app), None)
    server = make_server(args.host, args.port, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://{args.host}:{server.server_port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}),
    )
    for bucket in args.bucket:
        s3.create_bucket(Bucket=bucket)
    app.log = log
    print(json.dumps({"port": server.server_port, "pid": os.getpid()}), flush=True)
    serving.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
