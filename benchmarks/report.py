"""All results that are kept, as Markdown to paste into docs/performance.md: ``python -m benchmarks report``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from benchmarks.measure import Table, say
from benchmarks.targets import against_targets, kept

ORDER = ("rpc", "latency", "events", "fan-out", "scale", "startup", "topologies", "plan", "memory")


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The targets first, then each benchmark with its machine and its tables."""
    parts = ["## Targets", _facts(results), against_targets(results).markdown()]
    for name in (name for name in ORDER if name in results):
        result = results[name]
        parts.append(f"## {name}")
        parts.append("\n".join([*result["notes"], f"Measured at {result['machine']['at']}, load {_load(result)} before."]))
        parts += [Table(**table).markdown() for table in result["tables"]]
    return "\n\n".join(parts)


def _load(result: Mapping[str, Any]) -> str:
    return f"{result['machine']['load_before']:g}"


def _facts(results: Mapping[str, Mapping[str, Any]]) -> str:
    if not results:
        return "Nothing was measured yet."
    newest = max((result["machine"] for result in results.values()), key=lambda facts: str(facts["at"]))
    packages = ", ".join(f"{name} {version}" for name, version in sorted(newest["packages"].items()))
    return f"{newest['cores']} cores, {newest['system']}, Python {newest['python']}, {newest['loop']}; {packages}."


def run(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__).parse_args(arguments)
    say(markdown(kept()))
    return 0
