"""A small fleet file, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabric.cli.main import main

SHOP = """\
name: shop
services:
  store: {run: "shop.store:Store", critical: true, instances: 2}
  schema: {command: [migrate]}
  web:
    run: shop.web:Web
    critical: true
    dependencies: {store: {}, schema: {condition: completed}}
    optional_dependencies: [mail]
  mail: {run: "shop.mail:Mail", retry: {attempts: 4, delay: 100ms}, env: {FROM: "me@shop"}}
  extra: {run: "shop.extra:Extra"}
stages:
  - name: base
    services: [store, schema]
    gate: {required: [store], instances: {store: 1}}
  - name: front
    services: [web, mail]
    gate: {optional: [mail]}
    skip_on_timeout: true
    timeout: 20s
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process."""

    def run(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        streams = capsys.readouterr()
        code = ended.value.code
        return Ran(int(code or 0), streams.out, streams.err)

    return run


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with shop.yaml, made the current one; no broker in the environment."""
    for name in ("FABRIC_BROKER_URL", "FABRIC_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").write_text(SHOP)
    return tmp_path
