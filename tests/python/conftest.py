"""Shared fixtures: recordings, and the server under test described by environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

import transcript


@pytest.fixture(scope="session")
def transcript_files() -> list[Path]:
    """All recordings; skips when there are none."""
    found = transcript.files()
    if not found:
        pytest.skip(f"no recordings in {transcript.directory()}; set HOLDFAST_TRANSCRIPTS")
    return found
