"""How a command ends: its exit code, and one block of text in place of a traceback."""

from __future__ import annotations

import enum
import json
import sys

from fabric import errors
from fabric.errors import FabricError


class ExitCode(enum.IntEnum):
    """Documented in docs/cli.md; scripts rely on them.

    ``FAILED``: it was done and went wrong: a start-up, a call whose handler raised, a check with findings.
    ``CONFIGURATION``: the command line, a setting or the fleet file is wrong; nothing was started.
    ``UNREACHABLE``: no broker, no coordinator, or no instance; nothing was done.
    ``UNKNOWN``: no answer in time, or the link or the instance was lost meanwhile: it may have been done.
    """

    OK = 0
    FAILED = 1
    CONFIGURATION = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """What a script needs to know of ``error``."""
    match error:
        case errors.ConfigurationError() | errors.NotAllowed():
            return ExitCode.CONFIGURATION
        case errors.RemoteError() | errors.ValidationFailed():
            return ExitCode.FAILED
        case errors.TransportError() | errors.NoInstance() | errors.CallNotSent() | errors.ExpiredInQueue():
            return ExitCode.UNREACHABLE
        case errors.Overloaded() | errors.CircuitOpen():
            return ExitCode.UNREACHABLE
        case errors.CallError() if error.executed is None:
            return ExitCode.UNKNOWN
        case _:
            return ExitCode.FAILED


def report(error: FabricError, *, as_json: bool = False, code: ExitCode | None = None) -> ExitCode:
    """Say on standard error what went wrong and what to do; returns ``code``, by default the error's own."""
    code = exit_code(error) if code is None else code
    if as_json:
        print(json.dumps({"error": facts(error), "exit_code": int(code)}, default=str), file=sys.stderr)  # noqa: T201
        return code
    import typer

    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(_told(error), err=True)
    return code


def _told(error: FabricError) -> str:
    """What the coordinator refuses on purpose says all; that it was a call, and to whom, is no news to whoever ran a command."""
    refused = isinstance(error, errors.RemoteError) and error.expected and error.service == "coordinator"
    return error.remote_reason if refused and isinstance(error, errors.RemoteError) else str(error)


def facts(error: FabricError) -> dict[str, object]:
    """The typed attributes of an error as plain data."""
    found = {name: value for name, value in vars(error).items() if not name.startswith("_") and name != "advice"}
    return {"type": type(error).__name__, "message": str(error), "advice": error.advice, **found}
