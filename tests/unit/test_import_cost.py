"""What ``import fabric`` drags in. Modules are counted, not milliseconds, so that a busy machine decides nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("aio_pika", "aiormq", "networkx", "typer", "rich", "yaml", "starlette", "uvicorn", "psutil", "jinja2")


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in a fresh interpreter after ``statement``."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(finished.stdout))


def test_import_fabric_loads_nothing_heavy() -> None:
    """A process that only imports fabric has not loaded the broker client, the graph library, or anything of the command line."""
    assert loaded_by("import fabric") & set(HEAVY) == set()


@pytest.mark.parametrize("name", ["Hub", "Service", "rpc"])
def test_a_service_needs_no_command_line_and_no_graph(name: str) -> None:
    """What every service process imports leaves out what only the coordinator and the command line need."""
    assert (
        loaded_by(f"from fabric import {name}") & {"networkx", "typer", "rich", "yaml", "starlette", "uvicorn", "psutil"} == set()
    )
