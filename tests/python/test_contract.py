"""Every REST call against the OpenAPI document that the daemon serves.  Needs a server of its own on this machine, see
`conftest.py`: calls are made with whatever the document allows, and some of them change settings or remove things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import FIRST_TIME, Server
from pbs_backup import backup_blob
from pbs_client import Answer, PbsClient, Snapshot

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")

NAME = "contract"
USER = f"{NAME}@pbs"
PASSWORD = "correct horse"
UNDECLARED = "x-undeclared"
EXAMPLES = 6
"""How many requests for each call and set of values."""
BUSY = (503, 507)
"""Statuses from 500 that are no fault of the daemon."""
NOWHERE = "http://127.0.0.1:9"
WAITS = ("put-admin-s3-id-check",)
"""Calls that try for a while to reach somebody who is not there."""
UNBOUNDED = (*WAITS, "post-access-ticket", "post-config-datastore")
"""And those that are not made with just anything: refused logins are held back, and a directory would really be made."""


@dataclass(frozen=True)
class Operation:
    """A call as the document has it."""

    method: str
    path: str
    spec: dict[str, Any]

    def parameters(self, place: str) -> dict[str, dict[str, Any]]:
        """The parameters of `path` or `query`, by name."""
        return {p["name"]: p for p in self.spec.get("parameters", []) if p["in"] == place}

    def body(self) -> dict[str, Any]:
        """The schema of the JSON body, or nothing."""
        content = self.spec.get("requestBody", {}).get("content", {})
        return content.get("application/json", {}).get("schema", {})

    def required(self) -> list[str]:
        """The names that a call is refused without, but for those of the path."""
        return [n for n, p in self.parameters("query").items() if p["required"]] + self.body().get("required", [])

    def schemas(self) -> dict[str, dict[str, Any]]:
        """The schema of every parameter that a call can be made with, by name; none of those that are always refused."""
        found = {n: {"description": p["description"], **p["schema"]} for n, p in self.parameters("query").items()}
        found |= self.body().get("properties", {})
        return {name: schema for name, schema in found.items() if not schema["description"].startswith("Refused")}

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations(document: dict[str, Any]) -> list[Operation]:
    """All calls."""
    return [
        Operation(method.upper(), path, spec)
        for path, methods in document["paths"].items()
        for method, spec in methods.items()
    ]


@pytest.fixture(scope="module")
def document(token_client: PbsClient) -> dict[str, Any]:
    """The document."""
    answer = token_client.request("GET", "/openapi")
    assert answer.status == 200 and answer.content_type == "application/json"
    return answer.json()


@pytest.fixture(scope="module")
def known(client: PbsClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Values of parameters that name things which exist."""
    store, place = NAME, str(tmp_path_factory.mktemp("store"))
    client.call("POST", "/config/datastore", body_json={"name": store, "backend": "filesystem", "path": place})
    snapshot = Snapshot("host", NAME, FIRST_TIME)
    backup_blob(client, store, snapshot)
    client.call("POST", f"/admin/datastore/{store}/namespace", body_json={"name": NAME})
    client.call("POST", "/access/users", body_json={"userid": USER, "password": PASSWORD})
    client.call("POST", f"/access/users/{USER}/token/{NAME}", body_json={})
    client.call("POST", "/config/s3", body_json={"id": NAME, "endpoint": NOWHERE})
    remote = {"name": NAME, "host": "127.0.0.1", "port": 9, "auth-id": USER, "password": "x"}
    client.call("POST", "/config/remote", body_json=remote)
    client.call("POST", "/config/notify", body_json={"name": NAME, "url": NOWHERE})
    job = {"id": NAME, "store": store}
    client.call("POST", "/config/prune", body_json={**job, "keep-last": 1})
    client.call("POST", "/config/verify", body_json=job)
    client.call("POST", "/config/sync", body_json={**job, "remote": NAME, "remote-store": store})
    tasks = client.call("GET", "/nodes/localhost/tasks", query={"typefilter": "backup"})
    return {
        "store": store,
        "node": "localhost",
        "upid": tasks[0]["upid"],
        "userid": USER,
        "auth-id": USER,
        "new-owner": USER,
        "username": USER,
        "password": PASSWORD,
        "token-name": NAME,
        "name": NAME,
        "id": NAME,
        "ns": NAME,
        "target-ns": f"{NAME}/below",
        "parent": "",
        "path": f"/datastore/{store}",
        "backup-type": snapshot.backup_type,
        "backup-id": snapshot.backup_id,
        "backup-time": snapshot.backup_time,
        "file-name": "index.json.blob",
        "filepath": "root",
        "archive-name": "catalog.pcat1.didx",
        "statusfilter": ["ok"],
        "remote": NAME,
        "remote-store": store,
        "remote-ns": NAME,
    }


def plausible(name: str, schema: dict[str, Any], known: dict[str, Any]) -> Any:
    """A value that a parameter may have."""
    value = known.get(name)
    if value is not None and schema.get("type") == {str: "string", int: "integer", list: "array"}[type(value)]:
        return value
    if "enum" in schema:
        return schema["enum"][0]
    return {
        "string": "1 MiB",
        "integer": max(schema.get("minimum", 1), 1),
        "boolean": False,
        "array": [],
    }[schema["type"] if isinstance(schema["type"], str) else schema["type"][0]]


def send(client: PbsClient, operation: Operation, values: dict[str, Any], known: dict[str, Any]) -> Answer:
    """Make a call with these parameters, each where the document has it."""
    path = operation.path
    for name, parameter in operation.parameters("path").items():
        value = plausible(name, parameter["schema"], known)
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    if operation.method in ("POST", "PUT") and not operation.parameters("query"):
        return client.request(operation.method, path, body_json=values)
    return client.request(operation.method, path, query=values)


def test_what_is_declared_is_taken_and_nothing_else(
    token_client: PbsClient, document: dict[str, Any], known: dict[str, Any]
) -> None:
    """With all its parameters or with the required ones, every call gets as far as to refuse the one it does not know."""
    calls = operations(document)
    assert len(calls) > 100
    unknown = f"parameter verification failed: unknown parameter '{UNDECLARED}'"
    for operation in calls:
        everything = {name: plausible(name, schema, known) for name, schema in operation.schemas().items()}
        least = {name: value for name, value in everything.items() if name in operation.required()}
        for values in (everything, least):
            answer = send(token_client, operation, {**values, UNDECLARED: "x"}, known)
            assert (answer.status, answer.text) == (400, unknown), f"{operation} {values}: {answer.text}"


def test_what_is_required_is_demanded(
    token_client: PbsClient, document: dict[str, Any], known: dict[str, Any]
) -> None:
    fresh = {**known, "name": "another", "id": "another", "userid": "another@pbs"}
    for operation in operations(document):
        required = operation.required()
        least = {name: plausible(name, operation.schemas()[name], fresh) for name in required}
        for name in required:
            values = {other: value for other, value in least.items() if other != name}
            answer = send(token_client, operation, values, known)
            assert answer.status == 400 and name in answer.text, f"{operation} without {name}: {answer.text}"


def narrowed(document: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The document with nothing but existing things where things are named."""
    # A datastore out of service would end all other calls; a directory would really be made.
    fixed = {**known, "maintenance-mode": "no mode", "backend": "s3", "endpoint": NOWHERE, "url": NOWHERE, "port": 9}

    def walk(value: Any, name: str | None) -> Any:
        if isinstance(value, list):
            return [walk(item, None) for item in value]
        if not isinstance(value, dict):
            return value
        if name in fixed and value.get("type") == {str: "string", int: "integer"}.get(type(fixed[name])):
            return {**value, "enum": [fixed[name]]}
        if isinstance(value.get("schema"), dict) and "in" in value:
            return {**value, "schema": walk(value["schema"], value["name"])}
        if value.get("type") == "object":
            properties = {n: walk(schema, n) for n, schema in value.get("properties", {}).items()}
            return {**value, "properties": properties}
        return {n: walk(member, None) for n, member in value.items()}

    paths = {
        path: {
            method: {part: value if part == "responses" else walk(value, None) for part, value in spec.items()}
            for method, spec in methods.items()
        }
        for path, methods in document["paths"].items()
    }
    return {**document, "paths": paths}


def without_security(document: dict[str, Any]) -> dict[str, Any]:
    """The document without credentials: those of the requests are made here."""
    paths = {
        path: {method: {**spec, "security": []} for method, spec in methods.items()}
        for path, methods in document["paths"].items()
    }
    components = {name: part for name, part in document["components"].items() if name != "securitySchemes"}
    return {**document, "paths": paths, "components": components}


def no_fault(_: CheckContext, response: Response, case: schemathesis.Case) -> None:
    """The daemon has none."""
    assert response.status_code < 500 or response.status_code in BUSY, f"{case.method} {case.path}: {response.text}"


CHECKS: list[Callable[..., Any]] = [
    no_fault,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def explore(server: Server, token: tuple[str, str], document: dict[str, Any], leave_out: tuple[str, ...]) -> list[int]:
    """Make each call with values that the document allows, what removes things last; the statuses of the answers."""
    order = ["GET", "POST", "PUT", "DELETE"]
    schema = schemathesis.openapi.from_dict(without_security(document))
    found = [result.ok() for result in schema.get_all_operations()]
    found = [operation for operation in found if operation.definition.raw["operationId"] not in leave_out]
    statuses: list[int] = []
    with requests.Session() as session:
        session.verify = False
        session.headers["Authorization"] = f"PBSAPIToken={token[0]}:{token[1]}"
        for operation in sorted(found, key=lambda operation: order.index(operation.method.upper())):

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def conforms(case: schemathesis.Case) -> None:
                response = case.call(base_url=server.url + "/api2/json", session=session, verify=False)
                statuses.append(response.status_code)
                case.validate_response(response, checks=CHECKS)

            conforms()
    return statuses


def test_answers_to_anything(server: Server, token_client: PbsClient, document: dict[str, Any]) -> None:
    """Whatever the values are, answers are as the document has them."""
    statuses = explore(server, token_client.token, document, UNBOUNDED)
    assert statuses.count(200) > 20 and statuses.count(400) > 100


def test_answers_about_what_exists(
    server: Server, token_client: PbsClient, document: dict[str, Any], known: dict[str, Any]
) -> None:
    """The same about things that exist, until they are removed."""
    statuses = explore(server, token_client.token, narrowed(document, known), WAITS)
    assert statuses.count(200) > len(operations(document))
