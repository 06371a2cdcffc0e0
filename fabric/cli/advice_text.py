"""What the optimizer has to say, as text; and after the next start what became of it."""

from __future__ import annotations

import math

from fabric.startup.advice import WORTH, Advice, Estimate, SpeedUp

_FEW = 5


def advice_text(advice: Advice, *, runs: int) -> str:
    """What was changed and what it brings, then what only the owners of the services can decide."""
    lines = [f"from {runs} recorded starts, whose simulation is off by {advice.model_error:.0%} in the mean"]
    if math.isfinite(advice.contention.cores):
        lines.append(f"up to {advice.contention.cores:.0f} starts run at full speed; more slow each other down")
    if advice.proposals:
        lines += ["", f"changed: {advice.estimate}"]
        lines += [f"  {proposal.text}\n    alone {proposal.estimate}" for proposal in advice.proposals]
    else:
        lines += ["", "nothing to change: no other stages or slots were shorter in every simulated start"]
    if advice.costly_edges:
        lines += ["", "is this needed?"]
        for edge in advice.costly_edges[:_FEW]:
            where = f" ({edge.source})" if edge.source else ""
            lines.append(f"  {edge.dependent} waits for {edge.dependency}{where}; without that {edge.estimate}")
    worth, not_worth = _parted(advice.speed_ups)
    if worth:
        lines += ["", "worth being faster:", *(f"  {one}" for one in worth[:_FEW])]
    if not_worth:
        lines += ["", "not worth it:", *(f"  {one}" for one in not_worth[:_FEW])]
    if advice.notes:
        lines += ["", *advice.notes]
    return "\n".join(lines)


def _parted(speed_ups: tuple[SpeedUp, ...]) -> tuple[list[SpeedUp], list[SpeedUp]]:
    worth = [one for one in speed_ups if one.gain >= WORTH * one.seconds]
    return worth, [one for one in speed_ups if one not in worth and one.seconds > 0]


def predicted_and_achieved(prediction: Estimate, makespan: float) -> str:
    """One line after a start with optimized stages."""
    saved = prediction.before - makespan
    if prediction.low <= saved <= prediction.high:
        verdict = "as predicted"
    elif saved > prediction.high:
        verdict = "better than predicted"
    else:
        verdict = "worse than predicted: `fabric optimize` again, it knows this start now"
    return (
        f"predicted {prediction.after:.2f} s, that is {prediction.low:.2f} to {prediction.high:.2f} s less than "
        f"{prediction.before:.2f} s; achieved {makespan:.2f} s, {saved:.2f} s less: {verdict}"
    )
