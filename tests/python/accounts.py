"""The accounts of the recordings, created through REST.

tester@pbs (Admin on /), its token tester@pbs!tok (Admin on /), other@pbs (DatastoreBackup on /).
A harness that has already created them passes only the token's secret to the replayer.
"""

from __future__ import annotations

from pbs_client import ApiError, PbsClient

TESTER, TESTER_PASSWORD, TOKEN_NAME = "tester@pbs", "peertest123", "tok"
OTHER, OTHER_PASSWORD = "other@pbs", "otherpass123"
ROLES = ((TESTER, "Admin"), (f"{TESTER}!{TOKEN_NAME}", "Admin"), (OTHER, "DatastoreBackup"))


def create(url: str, fingerprint: str | None, user: str, password: str) -> str | None:
    """Create what is missing; returns the token's secret when the token is new."""
    client = PbsClient(url, fingerprint, user=user, password=password)
    existing = {entry["userid"]: entry for entry in client.call("GET", "/access/users", query={"include_tokens": True})}
    for name, secret in ((TESTER, TESTER_PASSWORD), (OTHER, OTHER_PASSWORD)):
        if name not in existing:
            client.call("POST", "/access/users", body_json={"userid": name, "password": secret})
    value = None
    tokens = existing.get(TESTER, {}).get("tokens") or []
    if not any(entry["tokenid"] == f"{TESTER}!{TOKEN_NAME}" for entry in tokens):
        made = client.call("POST", f"/access/users/{TESTER}/token/{TOKEN_NAME}", body_json={})
        value = made["value"]
    for identity, role in ROLES:
        _grant(client, identity, role)
    return value


def _grant(client: PbsClient, identity: str, role: str) -> None:
    query = {"path": "/", "auth-id": identity, "role": role, "propagate": True}
    answer = client.request("PUT", "/access/acl", body_json=query)
    if answer.status != 200:
        raise ApiError(f"granting {role} to {identity}", answer)
