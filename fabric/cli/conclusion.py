"""What is said once, when the start of a fleet has ended."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabric.cli.advice_text import predicted_and_achieved
from fabric.cli.bring_up import Stay
from fabric.cli.exits import ExitCode
from fabric.cli.gantt import gantt, marks_for
from fabric.cli.local_fleet import LocalFleet
from fabric.cli.outcome import profile_of, report, summary
from fabric.cli.output import write, write_json
from fabric.cli.profile_text import profile_text
from fabric.cli.trend import regression_text
from fabric.coordination.status import FleetStatus
from fabric.errors import ConfigurationError
from fabric.startup.history import ProfileHistory
from fabric.startup.profile import StartupProfile


def slower(fleet: str, profile: StartupProfile, history: Path) -> list[str]:
    """What took longer than usual; nothing where no runs are recorded."""
    if not history.exists():
        return []
    try:
        with ProfileHistory(history) as runs:
            return [regression_text(found) for found in runs.regressions(fleet, profile)]
    except (ConfigurationError, sqlite3.Error) as error:
        return [f"can't compare with earlier starts: {error}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """Prints the profile and the report, writes the profile, and lets a waiting parent go.

    Attributes:
        profile_out: where the profile is written as JSON.
        announce: takes the exit code of a start that has ended in a fleet that stays up.
    """

    stay: Stay
    as_json: bool
    profile_out: Path | None
    announce: Callable[[int], None] | None

    def __call__(self, status: FleetStatus, local: LocalFleet) -> None:
        if self.profile_out is not None:
            self.profile_out.write_text(json.dumps(status.profile, indent=2) + "\n")
        stays = self.stay.after(status.state)
        if self.as_json:
            write_json(status.model_dump(mode="json"))
        else:
            if profile := profile_of(status):
                width = shutil.get_terminal_size((100, 24)).columns
                write(gantt(profile, width=min(width, 140), marks=marks_for(sys.stdout.encoding)) + "\n")
                write(profile_text(profile) + "\n")
                if (prediction := local.prediction) and profile.ok:
                    write(predicted_and_achieved(prediction, profile.makespan))
                for line in slower(status.fleet, profile, local.history):
                    write(line)
            if failures := report(status, log_of=local.log_of):
                write(failures)
            write(summary(status))
            if stays:
                write("`fabric down` stops it" if self.announce else "Ctrl-C stops it")
        if self.announce is not None and stays:
            self.announce(ExitCode.OK if status.state.is_usable else ExitCode.FAILED)
