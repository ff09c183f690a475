"""The replayer checked against the recordings themselves; needs no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pbs_format as fmt
import self_check
import transcript
from comparison import Difference, compare, outcome
from deliberate import TABLE, reason_for
from http1 import Answer
from mapping import RECORDED_SECRET, Mapping
from replay import REQUIRED, Replayer
from replay_transport import RecordedTransport
from transcript import Step

NAMES = sorted(p.name.removesuffix(".gz").removesuffix(".jsonl") for p in transcript.files())

pytestmark = pytest.mark.skipif(not NAMES, reason=f"no recordings in {transcript.directory()}")


@pytest.fixture(params=NAMES)
def recording(request: pytest.FixtureRequest) -> transcript.Transcript:
    """Every recording."""
    return transcript.load(transcript.find(request.param))


def test_all_recordings_are_there(transcript_files: list[Path]) -> None:
    assert len(NAMES) == 25
    assert set(REQUIRED) <= set(NAMES)


def test_recorded_answers_are_equal_to_themselves(recording: transcript.Transcript) -> None:
    result, problems = self_check.replay(recording)
    assert not problems
    assert not result.unexpected and not result.deliberate and not result.notes
    assert result.sent == len(recording.exchanges)
    assert result.equal == result.sent - result.unanswered


def test_damaged_answers_are_found(recording: transcript.Transcript) -> None:
    tried, missed = self_check.undetected(recording)
    assert not missed
    assert tried > 10 * len(recording.exchanges) / 2


def test_requests_wait_for_earlier_answers(recording: transcript.Transcript) -> None:
    """The ordering rule: before a request, every answer with a lower position has been taken."""
    answered: set[int] = set()
    sent: set[int] = set()
    for entry in recording.timeline():
        if entry.step == Step.HEAD:
            due = {e.seq for e in recording.exchanges if e.response_seq and e.response_seq < entry.seq}
            assert due <= answered
            sent.add(entry.exchange.seq)
        elif entry.step == Step.ANSWER:
            assert entry.exchange.seq in sent
            answered.add(entry.exchange.seq)


def test_overlap_is_kept() -> None:
    """Streams that overlapped when recorded overlap in the replay."""
    deepest: dict[str, int] = {}
    for name in NAMES:
        open_now = 0
        for entry in transcript.load(transcript.find(name)).timeline():
            open_now += {Step.HEAD: 1, Step.ANSWER: -1}.get(entry.step, 0)
            deepest[name] = max(deepest.get(name, 0), open_now)
    assert deepest["backup-many-chunks"] >= 10
    assert deepest["login-version-status"] == 1


@pytest.mark.parametrize(
    ("name", "broken"),
    [("backup-legacy", "writers"), ("backup-legacy", "tickets"), ("gc-tasks", "tasks"), ("older-time", "csrf")],
)
def test_a_forgetful_mapping_is_noticed(name: str, broken: str) -> None:
    """Guards the self-check itself: requests with stale values must be reported."""

    class Forgetful(dict):
        def __setitem__(self, key: object, value: object) -> None:
            pass

    recording = transcript.load(transcript.find(name))
    transport = RecordedTransport(recording)
    mapping = Mapping("recorded:8007", RECORDED_SECRET, {})
    setattr(mapping, broken, Forgetful())
    Replayer(recording, transport, mapping, settle=0).run()
    assert transport.problems


def test_mapping_rewrites_names_secret_and_host() -> None:
    recording = transcript.load(transcript.find("api-token"))
    mapping = Mapping("[::1]:1", "new-secret", {"store1": "other", "store2": "store2"})
    for exchange in recording.exchanges:
        text = mapping.target(exchange) + str(mapping.headers(exchange))
        assert RECORDED_SECRET not in text and "8008" not in text
        assert "/datastore/store1/" not in text and "store=store1" not in text
    assert mapping.recorded_name("other:host/x") == "store1:host/x"
    assert mapping.recorded_name("another") == "another"
    mapping.stores = {"store1": "r-x"}
    assert mapping.recorded_name(r"UPID:n:1:backup:r\x2dx\x3ahost-g:u:") == r"UPID:n:1:backup:store1\x3ahost-g:u:"


def test_deliberate_table_is_used_and_bounded() -> None:
    """Every entry names a request that exists, excuses it, and does not excuse what it does not accept."""
    everything = [(n, e) for n in NAMES for e in transcript.load(transcript.find(n)).exchanges]
    sealed = [{"filename": name} for name in ("a.didx", "d.img.fidx", "x.conf.blob", "index.json.blob")]
    task = "UPID:a:garbage_collection:b"
    samples = ["s3", 200, "9", "9.9", {"get": 1}, {"stored": 1}, sealed, "keep-last", 0, task, [{"upid": task}]]
    for entry in TABLE:
        field = entry.field.replace("*", "")
        found = [
            (name, e)
            for name, e in everything
            if any(entry.covers(name, e, Difference(field, None, sample)) for sample in samples)
        ]
        assert found, entry.reason
        if entry.scenario != "rest-misc":
            assert reason_for(found[0][0], found[0][1], Difference(field, None, [{"filename": "never"}])) is None


def test_uuid_and_time_of_an_index_are_free() -> None:
    recording = transcript.load(transcript.find("backup-metadata-mode"))
    index = next(e for e in recording.exchanges if e.path == "/download" and e.file_name.endswith(".didx"))
    body = index.response_body
    assert not compare(index, Answer(200, index.response_headers, body[:8] + b"\7" * 24 + body[32:]))


def test_unprotected_part_may_gain_members_only() -> None:
    recording = transcript.load(transcript.find("backup-legacy"))
    exchange = next(e for e in recording.exchanges if e.file_name == fmt.MANIFEST_NAME and e.path == "/previous")
    manifest = fmt.decode_manifest(exchange.response_body)
    manifest["unprotected"]["more"] = 1
    assert not compare(exchange, Answer(200, exchange.response_headers, fmt.encode_manifest(manifest)))
    del manifest["unprotected"]["chunk_upload_stats"]
    assert compare(exchange, Answer(200, exchange.response_headers, fmt.encode_manifest(manifest)))


def test_task_ends_compare_by_class() -> None:
    assert outcome("connection error: x") == outcome("backup ended but finished state is not set.") == "error"
    assert len({outcome(t) for t in ("OK", "WARNINGS: 3", "x", "running")}) == 4


def test_encoded_size_of_the_manifest_is_free_and_no_other() -> None:
    recording = transcript.load(transcript.find("backup-image"))
    exchange = next(e for e in recording.exchanges if e.path.endswith("/snapshots") and b'"size"' in e.response_body)
    for name, expected in ((fmt.MANIFEST_NAME, False), ("x.conf.blob", True)):
        document = json.loads(exchange.response_body)
        snapshot = document["data"][0]
        next(item for item in snapshot["files"] if item["filename"] == name)["size"] += 3
        snapshot["size"] += 3
        answer = Answer(200, exchange.response_headers, json.dumps(document).encode())
        assert bool(compare(exchange, answer)) is expected
