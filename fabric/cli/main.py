"""The command line. What a command needs it imports when it is run, so that ``fabric --help`` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from fabric.cli.commands import (
    broker,
    call,
    check,
    contract,
    coordinator,
    dead_letters,
    doctor,
    down,
    explain,
    graph,
    import_,
    optimize,
    permissions,
    profile,
    restart,
    run,
    status,
    up,
    version,
)
from fabric.cli.exits import ExitCode, report
from fabric.errors import FabricError

COMMANDS = (
    up,
    status,
    explain,
    call,
    restart,
    down,
    profile,
    optimize,
    dead_letters,
    graph,
    import_,
    check,
    contract,
    doctor,
    permissions,
    run,
    broker,
    coordinator,
    version,
)
"""In the order of the help. A new command is a module with ``register(app)`` and its place here."""

_EXIT_CODES = (
    "Exit codes: 0 done; 1 done, and it went wrong; 2 command line, settings or fleet file wrong, nothing was done; "
    "3 broker, coordinator or service not there, nothing was done; 4 no answer, it may have been done; 130 interrupted."
)

app = typer.Typer(
    name="fabric",
    help="Services that talk over RabbitMQ and come up together.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    command.register(app)


def main(args: Sequence[str] | None = None, *, run: Callable[..., Any] = app) -> None:
    """Run one command and exit with its code.

    Args:
        run: the commands, where they were read in advance: ``typer.main.get_command(app)``.
    """
    given = list(sys.argv[1:] if args is None else args)
    try:
        if os.environ.get("FABRIC_BROKER_URL_FILE"):
            from fabric.broker_url import adopt

            adopt(os.environ)
        run(args=given, prog_name="fabric")
    except FabricError as error:
        sys.exit(report(error, as_json="--json" in given))
    except TimeoutError:
        late = FabricError("no answer in time; it may have been done")
        sys.exit(report(late, as_json="--json" in given, code=ExitCode.UNKNOWN))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
