"""mypy --strict accepts what the public names allow and finds what they forbid."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VAIN = """
from typing import assert_type
from fabric import Hub
from tests.typing.api import EmailReceipt, EmailService

async def vain(hub: Hub) -> None:
    assert_type(await hub.call("email-service", "send_email", returns=EmailReceipt), int)  # line 7
    assert_type(await hub.proxy(EmailService).count("a"), str)  # line 8
    await hub.call("email-service", "count", returns=int)  # type: ignore[call-overload]  # line 9
"""


def test_what_mypy_says(tmp_path: Path) -> None:
    """The good uses are clean, each mistake is found where it is, and, so that this is no empty success, wrong claims are not
    believed."""
    vain = tmp_path / "vain.py"
    vain.write_text(VAIN)
    files = ("tests/typing/api.py", "tests/typing/mistakes.py", str(vain))
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *files], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    found = re.findall(r"^(\S+?):(\d+): error: .*\[([a-z-]+)\]$", run.stdout, re.M)
    assert [(Path(file).name, int(line), code) for file, line, code in found] == [
        ("vain.py", 7, "assert-type"),
        ("vain.py", 8, "assert-type"),
        ("vain.py", 9, "unused-ignore"),
    ], run.stdout + run.stderr
