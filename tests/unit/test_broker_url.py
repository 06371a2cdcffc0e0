"""The broker's URL from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from fabric import broker_url
from fabric.config import Settings
from fabric.errors import ConfigurationError


def test_a_file_goes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file is named its URL counts, read when it is asked for, so that a new password is found; an empty name is none."""
    file = tmp_path / "url"
    monkeypatch.setenv("FABRIC_BROKER_URL", "amqp://a/")
    monkeypatch.setenv("FABRIC_BROKER_URL_FILE", str(file))
    settings = Settings()
    file.write_text("amqp://b/\n")
    assert settings.broker() == "amqp://b/"
    file.write_text("amqp://c/")
    assert settings.broker() == "amqp://c/"
    monkeypatch.setenv("FABRIC_BROKER_URL_FILE", "")
    assert Settings().broker() == "amqp://a/"
    monkeypatch.delenv("FABRIC_BROKER_URL")
    assert Settings().broker() is None
    assert Settings(broker_url=SecretStr("unix:///b")).broker() == "unix:///b"


def test_adopting_a_file(tmp_path: Path) -> None:
    """What knows only the variable finds the file's URL there, and the file is not read twice."""
    file = tmp_path / "url"
    file.write_text("amqp://b/\n")
    environment = {"FABRIC_BROKER_URL": "amqp://a/", "FABRIC_BROKER_URL_FILE": str(file), "OTHER": "x"}
    broker_url.adopt(environment)
    assert environment == {"FABRIC_BROKER_URL": "amqp://b/", "OTHER": "x"}
    broker_url.adopt(environment)
    assert environment["FABRIC_BROKER_URL"] == "amqp://b/"


@pytest.mark.parametrize(
    "held", [b"", b"\n \n", b"amqp://u:hunter2@h/\namqp://u:hunter2@h/", b"amqp://u:hunter2@h /", b"hunter2\xff"]
)
def test_a_file_that_holds_no_url(tmp_path: Path, held: bytes) -> None:
    """A file without one line of text is named, and what it holds is not shown."""
    file = tmp_path / "url"
    file.write_bytes(held)
    with pytest.raises(ConfigurationError) as refused:
        broker_url.read(file)
    assert str(file) in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file or a directory is named with the reason."""
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigurationError, match="FABRIC_BROKER_URL_FILE: can't read"):
            broker_url.read(file)
