"""Values that differ between the recorded server and the one under test.

Requests are rewritten on the way out (tickets, CSRF tokens, token secret, writer ids, task ids,
datastore names, host), and what the server answers is learned on the way in.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, unquote

from comparison import UPID
from http1 import Answer
from transcript import Exchange

RECORDED_SECRET = "a7a634a7-589a-42c3-b50d-d2106a05e026"
RECORDED_STORES = ("store1", "store2")

_WID_QUERY = re.compile(r"(?<=[?&]wid=)\d+(?=&|$)")
_WID_JSON = re.compile(rb'("wid"\s*:\s*"?)(\d+)')
_UPID_SEGMENT = re.compile(r"(?<=/tasks/)[^/?]+")


class Mapping:
    """From recorded values to the server's, learned exchange by exchange."""

    def __init__(self, host: str, secret: str | None, stores: dict[str, str]) -> None:
        """`stores` maps recorded datastore names to existing ones; `secret` is that of `tester@pbs!tok`."""
        self.host = host
        self.secret = secret
        self.stores = stores
        self.tickets: dict[str, str] = {}
        self.csrf: dict[str, str] = {}
        self.tasks: dict[str, str] = {}
        self.writers: dict[tuple[int, str], int] = {}

    # --- out ----------------------------------------------------------------------------------

    def target(self, exchange: Exchange) -> str:
        """The request target to send."""
        target = exchange.raw_target
        for old, new in self.stores.items():
            target = re.sub(rf"(?<=/datastore/){old}(?=[/?]|$)", new, target)
            target = re.sub(rf"(?<=[?&]store=){old}(?=&|$)", new, target)
        target = _UPID_SEGMENT.sub(lambda found: self._task_segment(found[0]), target)
        if exchange.is_h2:
            target = _WID_QUERY.sub(lambda found: str(self._writer(exchange.conn, found[0])), target)
        return target

    def headers(self, exchange: Exchange) -> list[tuple[str, str]]:
        """The request headers to send, in recorded order and spelling; the length is left to the sender."""
        sent = []
        for name, value in exchange.request_headers:
            lower = name.lower()
            if lower == "host":
                value = self.host
            elif lower == "cookie":
                value = re.sub(r"(?<=AuthCookie=)[^;]+", lambda found: self._ticket(found[0]), value)
            elif lower == "csrfpreventiontoken":
                value = self.csrf.get(value, value)
            elif lower == "authorization" and self.secret is not None:
                value = value.replace(RECORDED_SECRET, self.secret)
            elif lower == ":path":
                value = self.target(exchange)
            elif lower == "content-length":
                continue
            sent.append((name, value))
        return sent

    def body(self, exchange: Exchange) -> bytes | None:
        """The request body to send."""
        body = exchange.request_body
        content_type = dict((k.lower(), v) for k, v in exchange.request_headers).get("content-type", "")
        if not body or content_type.startswith("application/octet-stream") or len(body) > 512 * 1024:
            return body
        if exchange.is_h2:
            return _WID_JSON.sub(lambda m: m[1] + str(self._writer(exchange.conn, m[2].decode())).encode(), body)
        for old, new in self.tickets.items():
            body = body.replace(json.dumps(old).encode(), json.dumps(new).encode())
        return body

    def _ticket(self, value: str) -> str:
        ticket = self.tickets.get(unquote(value))
        if ticket is None:
            return value  # forged on purpose
        return ticket.replace(":", "%3A") if "%" in value else ticket

    def _writer(self, conn: int, recorded: str) -> int | str:
        return self.writers.get((conn, recorded), recorded)

    def _task_segment(self, segment: str) -> str:
        task = self.tasks.get(unquote(segment))
        if task is None:
            return segment
        escaped = quote(task, safe="")
        if "%5F" in segment or "%2D" in segment:
            escaped = escaped.replace("_", "%5F").replace("-", "%2D")
        return escaped

    # --- in -----------------------------------------------------------------------------------

    def learn(self, exchange: Exchange, answer: Answer) -> None:
        """Take over what this answer defines; answers that are no success define nothing."""
        if exchange.status != 200 or answer.status != 200 or not exchange.response_is_json:
            return
        try:
            old, new = json.loads(exchange.response_body or b"null"), answer.json()
        except ValueError:
            return
        self._learn_tasks(old, new)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return
        if exchange.path.endswith("/access/ticket") and isinstance(new.get("data"), dict):
            self.tickets[old["data"]["ticket"]] = str(new["data"].get("ticket"))
            self.csrf[old["data"]["CSRFPreventionToken"]] = str(new["data"].get("CSRFPreventionToken"))
        if exchange.is_h2 and exchange.method == "POST" and exchange.path in ("/dynamic_index", "/fixed_index"):
            if isinstance(new.get("data"), int):
                self.writers[(exchange.conn, str(old["data"]))] = new["data"]

    def _learn_tasks(self, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str) and UPID.match(old) and UPID.match(new):
            self.tasks[old] = new
        elif isinstance(old, dict) and isinstance(new, dict):
            for name in old.keys() & new.keys():
                self._learn_tasks(old[name], new[name])
        elif isinstance(old, list) and isinstance(new, list):
            for a, b in zip(old, new):
                self._learn_tasks(a, b)

    def recorded_name(self, text: str) -> str:
        """Text of an answer with the recorded datastore names put back."""
        for old, new in self.stores.items():
            escaped = re.sub(r"[^A-Za-z0-9_.]", lambda found: f"\\x{ord(found[0]):02x}", new)  # inside a UPID
            for form in (new, escaped):
                if old != new and form in text:
                    text = re.sub(rf"(?<![A-Za-z0-9._-]){re.escape(form)}(?![A-Za-z0-9._-])", old, text)
        return text
