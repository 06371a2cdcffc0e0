"""How a process runs its main coroutine."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, gc, sys
import fabric.loop

if sys.argv[1] == "without uvloop":
    fabric.loop.find_spec = lambda name: None
fabric.loop.SETTLED = 0.05
kept = []

class Node:
    pass

async def main():
    loaded = gc.get_freeze_count()
    kept.append([Node() for _ in range(1000)])
    await asyncio.sleep(0.2)
    settled = gc.get_freeze_count()
    later = Node()
    later.itself = later
    del later
    print(type(asyncio.get_running_loop()).__module__, loaded > 1000, settled - loaded >= 1000, gc.collect() >= 1)
    return 7

print(fabric.loop.run(main()))
"""


@pytest.mark.parametrize(("how", "module"), [("with uvloop", "uvloop"), ("without uvloop", "asyncio.unix_events")])
def test_what_stays_is_not_searched_for_garbage(how: str, module: str) -> None:
    """What was loaded before, and what came while the process settled, is out of the collector's sight; later garbage is not."""
    if how == "with uvloop":
        pytest.importorskip("uvloop")
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == [f"{module} True True True", "7"]


def test_what_main_raises_is_raised() -> None:
    """An error of the main coroutine ends the process as with asyncio's own."""
    program = "import fabric.loop\nasync def main(): raise KeyError('mine')\nfabric.loop.run(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: 'mine'\n")
