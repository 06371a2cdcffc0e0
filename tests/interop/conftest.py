"""Node and the packages of the client, installed once for each test process."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def unavailable(reason: str) -> None:
    """Skipped where it may be missing; a failure where the tests have to be complete."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client and what it needs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("node and npm are not installed")
    folder = tmp_path_factory.mktemp("interop")
    for name in ("package.json", "client.js", "run.js", "validate.js"):
        shutil.copy(HERE / name, folder)
    try:
        installed = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    except subprocess.TimeoutExpired:
        unavailable("npm took more than 90 s to install the client's packages")
    if installed.returncode:
        unavailable(f"npm can't install the client's packages: {installed.stderr[-500:]}")
    return folder
