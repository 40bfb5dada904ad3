"""What is exported before Ray is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vesselflow.orchestration.environment import settle_token

MODE = "RAY_AUTH_MODE"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a token, and an environment that says nothing of one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # Set first, so that what the code sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def _mode() -> str | None:
    settle_token()
    return os.environ.get(MODE)


def test_without_a_token_ray_is_left_alone(home: Path) -> None:
    assert _mode() is None


def test_a_token_in_the_home_folder_is_shown(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("secret")
    assert _mode() == "token"


def test_a_token_elsewhere_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
    assert _mode() is None
    (home / "token").write_text("secret")
    assert _mode() == "token"


def test_what_the_person_says_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv(MODE, "disabled")
    assert _mode() == "disabled"
