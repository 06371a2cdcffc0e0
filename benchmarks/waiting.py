"""The classes of the reference fleet, each with a wait before its start; for the fleet file that ``benchmarks.waits`` writes."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module

import yaml

from benchmarks.waits import FLEET
from fabric import Service


def _waiting(base: type[Service]) -> type[Service]:
    async def start(self: Service) -> None:
        await asyncio.sleep(float(os.environ["BENCH_WAIT_SECONDS"]))
        await base.start(self)

    return type(base.__name__, (base,), {"start": start, "__module__": __name__, "__doc__": base.__doc__})


# Made when this is loaded, so that the fork server loads the services' own modules once for all processes.
for _body in yaml.safe_load(FLEET.read_text(encoding="utf-8"))["services"].values():
    _module, _, _name = _body["run"].partition(":")
    globals()[_name] = _waiting(getattr(import_module(_module), _name))
