"""Puts other stages and slots into a fleet file, and leaves the rest of its text, comments included, as it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fabric.coordination.fleet import parse_fleet
from fabric.errors import ConfigurationError
from fabric.startup.advice import Estimate
from fabric.startup.definition import RetryPolicy
from fabric.startup.stages import HealthGate, StartupStage

_WIDTH = 120


def with_stages(text: str, path: str | Path, stages: tuple[StartupStage, ...], slots: int | None, prediction: Estimate) -> str:
    """The text of ``path`` with these stages and slots, and what they are expected to bring.

    Comments are kept but for those between stages. Where the text can't be changed in place, such as one in a single line,
    all of it is written anew, without its comments.

    Raises:
        ConfigurationError: the text is no fleet file, or what would come of it is none.
    """
    parse_fleet(text, path)
    parts: dict[str, Any] = {
        "slots": slots,
        "stages": [stage_entry(stage) for stage in stages] or None,
        "prediction": {name: round(value, 3) for name, value in dataclasses.asdict(prediction).items()},
    }
    try:
        changed = _in_place(text, parts)
        if changed is not None and _holds(changed, path, stages, slots):
            return changed
    except ConfigurationError:  # an anchor that went with the stages, or the like
        pass
    whole = {**yaml.safe_load(text), **parts}
    anew = yaml.safe_dump(
        {key: value for key, value in whole.items() if value is not None}, sort_keys=False, width=_WIDTH, default_flow_style=None
    )
    if not _holds(anew, path, stages, slots):
        raise ConfigurationError("the stages can't be written as a fleet file", source=str(path))
    return anew


def stage_entry(stage: StartupStage) -> dict[str, Any]:
    """A stage as a fleet file has it; what is the default is left out."""
    entry: dict[str, Any] = {"name": stage.name, "services": list(stage.services)}
    if gate := _gate_entry(stage.health_gate):
        entry["gate"] = gate
    entry["timeout"] = duration(stage.timeout)
    if stage.skip_on_timeout:
        entry["skip_on_timeout"] = True
    if stage.retry_policy is not None:
        entry["retry"] = retry_entry(stage.retry_policy)
    return entry


def retry_entry(policy: RetryPolicy) -> dict[str, Any]:
    plain = dataclasses.asdict(policy)
    return {name: duration(value) if name in ("delay", "max_delay", "reset_after") else value for name, value in plain.items()}


def duration(seconds: float) -> str | float:
    """As a person writes it, where that says the same."""
    for unit, size in (("m", 60.0), ("s", 1.0), ("ms", 0.001)):
        number = seconds / size
        if seconds >= size and number == int(number) and (unit != "m" or seconds >= 120):
            return f"{int(number)}{unit}"
    return seconds


def _gate_entry(gate: HealthGate) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "required": list(gate.required),
        "optional": list(gate.optional),
        "instances": dict(gate.instances),
        "stable_for": duration(gate.stable_for) if gate.stable_for else None,
        "successes": gate.successes if gate.successes > 1 else None,
    }
    return {name: value for name, value in entry.items() if value}


def _holds(text: str, path: str | Path, stages: tuple[StartupStage, ...], slots: int | None) -> bool:
    fleet = parse_fleet(text, path)
    return (_without_sources(fleet.stages), fleet.slots) == (_without_sources(stages), slots)


def _without_sources(stages: tuple[StartupStage, ...]) -> list[StartupStage]:
    return [
        dataclasses.replace(stage, source=None, health_gate=dataclasses.replace(stage.health_gate, source=None))
        for stage in stages
    ]


def _in_place(text: str, parts: Mapping[str, Any]) -> str | None:
    """None where the keys don't begin lines of their own."""
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    places = {key.value: (key.start_mark.index, value.end_mark.index) for key, value in root.value}
    pieces, at = [], 0
    for name, (start, end) in sorted(places.items(), key=lambda place: place[1]):
        if name in parts:
            own, block = _own_lines(text[start:end]), _block(name, parts[name])
            if not own.endswith("\n") and not block:
                own += text[end:].partition("\n")[0] + "\n"
            pieces += [text[at:start], block if own.endswith("\n") else block.rstrip("\n")]
            at = start + len(own)
    pieces.append(text[at:])
    changed = "".join(pieces)
    added = "".join(_block(name, value) for name, value in parts.items() if name not in places)
    return changed.rstrip("\n") + "\n" + added


def _block(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict | list):
        return f"{name}: {value}\n"
    return yaml.safe_dump({name: value}, sort_keys=False, width=_WIDTH, default_flow_style=None)


def _own_lines(text: str) -> str:
    """Without the empty lines and the comments that stand at the end of it: they belong to what comes next."""
    found = re.sub(r"\n(?:[ \t]*\n|#[^\n]*\n)*\Z", "\n", text if text.endswith("\n") else text + "\n")
    return found[: len(text)]
