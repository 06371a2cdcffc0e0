"""The tree of errors is what its page says, and each error says what happened and what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from fabric import errors
from fabric.errors import (
    CallError,
    CircuitOpen,
    ConfigurationError,
    DependencyCycle,
    FabricError,
    IllegalTransition,
    InvalidMessage,
    MessageError,
    NoRoute,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceError,
    StaleCommand,
    StartupError,
    StartupFailed,
    TopologyConflict,
    TransportError,
    UnknownName,
    ValidationFailed,
)

FACTS: dict[str, Any] = {
    "service": "email-service", "method": "send_email", "instance": "email-1", "attempt": 2, "elapsed": 1.5, "remaining": 0.5,
}  # fmt: skip
GROUPS = {FabricError, MessageError, TransportError, CallError, StartupError, ConfigurationError}
"""Classes that gather others. What is raised of them says itself what to do."""


def below(kind: type[FabricError]) -> Iterator[type[FabricError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from below(child)


def example(kind: type[FabricError]) -> FabricError:
    """One of each class, with every attribute set."""
    special: dict[type[FabricError], Any] = {
        UnknownName: lambda: UnknownName("service", "emial", used_by="todo", known=("email",), source="fleet.yaml:3"),
        DependencyCycle: lambda: DependencyCycle(
            ("a", "b", "a"), sources=("f:1", None), others=[("c", "d", "c")], relax=[("a", "b")], exact=True
        ),
        ConfigurationError: lambda: ConfigurationError("wrong", source="fleet.yaml:3"),
        InvalidMessage: lambda: InvalidMessage("too deep"),
        PayloadTooLarge: lambda: PayloadTooLarge(10, 5),
        NoRoute: lambda: NoRoute("rpc", "email-1"),
        TopologyConflict: lambda: TopologyConflict("queue", "other arguments"),
        Overloaded: lambda: Overloaded("full", retry_after=2.0, draining=True, **FACTS),
        CircuitOpen: lambda: CircuitOpen("often", retry_after=2.0, **FACTS),
        ValidationFailed: lambda: ValidationFailed("no", errors=[{"loc": ["to"]}], executed=True, **FACTS),
        RemoteError: lambda: RemoteError("no", type="KeyError", code="c", retryable=True, details={"a": 1}, **FACTS),
        ServiceError: lambda: ServiceError("no", code="c", retryable=True, details={"a": 1}),
        StartupFailed: lambda: StartupFailed("email-service failed", profile={"makespan": 1.0}),
        StaleCommand: lambda: StaleCommand(1, 2),
        IllegalTransition: lambda: IllegalTransition("email-1", "stopped", "running", ("initializing",)),
    }
    if kind in special:
        made = special[kind]()
    elif issubclass(kind, CallError):
        made = kind("because", **FACTS)
    else:
        made = kind("because")
    assert isinstance(made, FabricError)
    return made


ALL = sorted(below(FabricError), key=lambda kind: kind.__name__)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    """Whoever reads the page knows every class and where it belongs."""
    drawing = inspect.cleandoc(errors.__doc__ or "").split("```")[1]
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    for line in drawing.strip().splitlines():
        found = re.fullmatch(r"([│├└─ ]*)(\w+)(?: {2,}(.*))?", line)
        assert found, line
        depth, name = len(found[1]) // 4, found[2]
        parents[depth] = name
        drawn[name] = parents.get(depth - 1, "") if depth else ""
        assert depth == 0 or found[3], f"{name} is not explained"
    assert drawn == {kind.__name__: kind.__base__.__name__ if kind is not FabricError else "" for kind in ALL}  # type: ignore[union-attr]


def test_the_tree_says_what_was_executed() -> None:
    """The last column of the drawing is what the classes say."""
    lines = {line.strip("│├└─ ").split()[0]: line for line in (errors.__doc__ or "").splitlines() if "─" in line}
    for kind in CallError.__subclasses__():
        line = lines[kind.__name__]
        if "not executed" in line:
            assert kind.executed is False, line
        elif "unknown" in line:
            assert kind.executed is None, line
        elif line.rstrip().endswith("executed"):
            assert kind.executed is True, line


@pytest.mark.parametrize("kind", ALL)
def test_each_error_says_what_to_do_next(kind: type[FabricError]) -> None:
    """Every text names what happened and, where the class is raised as such, what to do about it."""
    error = example(kind)
    assert inspect.getdoc(kind), "has no docstring"
    if kind in GROUPS or kind is ServiceError:
        return
    told = str(error)
    hints = ("did you mean", "make optional", "it can become", kind.advice or "\x00")
    assert any(hint in told for hint in hints), told
    assert told.startswith(error.text)


def test_advice_names_only_commands_that_exist() -> None:
    """A command that an error recommends is one of the command line's."""
    from typer.main import get_command

    from fabric.cli.main import app

    commands = set(getattr(get_command(app), "commands", {}))
    assert commands, "the command line has no commands"
    for kind in ALL:
        assert set(re.findall(r"\bfabric ([a-z-]+)", kind.advice)) <= commands, kind.advice


@pytest.mark.parametrize("kind", [kind for kind in ALL if issubclass(kind, CallError)])
def test_the_outcome_of_a_call_has_its_facts(kind: type[CallError]) -> None:
    """Service, method, instance, attempt and times are attributes, and all but the last are in the text."""
    error = example(kind)
    assert {name: getattr(error, name) for name in FACTS} == FACTS
    assert "email-service.send_email on email-1: " in str(error)
    assert "[attempt 2, 1500 ms]" in str(error)
    bare = kind(service="a", method="m")
    assert "a.m: " in str(bare)
    assert " on " not in str(bare).partition(":")[0]
    assert bare.ended_at in ("caller", "link", "callee", "handler")


def test_only_what_did_not_run_is_retryable() -> None:
    """What ran, or may have, is never safe to repeat without knowing the method; what did not run mostly is."""
    retryable = {kind.__name__ for kind in CallError.__subclasses__() if kind("", service="a", method="m").retryable}
    assert retryable == {"NoInstance", "CallNotSent", "ExpiredInQueue", "Overloaded"}
    for kind in CallError.__subclasses__():
        made = kind("", service="a", method="m")
        assert not made.retryable or made.executed is False


@pytest.mark.parametrize("kind", ALL)
def test_errors_can_leave_a_process(kind: type[FabricError]) -> None:
    """Pickled, as process pools do, or copied, an error keeps its class, its text and its attributes."""
    error = example(kind)
    error.add_note("seen by a test")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)
        assert other.args == error.args


def test_a_wrong_name_has_a_suggestion() -> None:
    """A near miss is suggested; without one the known names are listed, and none is said to be known when there is none."""
    near = UnknownName("service", "emial-service", used_by="todo", known=("email-service", "cache"), source="fleet.yaml:7")
    assert str(near) == (
        "fleet.yaml:7: todo names the service 'emial-service', which is not defined; did you mean 'email-service'?"
    )
    assert near.source == "fleet.yaml:7"
    assert "known are: a, b" in str(UnknownName("stage", "xyz", used_by="u", known=("b", "a")))
    assert "known are: none" in str(UnknownName("stage", "xyz", used_by="u"))


def test_a_cycle_shows_each_edge_and_the_way_out() -> None:
    """S4 (systemd#39338): the whole path, where each edge stands, and what to remove."""
    text = str(example(DependencyCycle))
    assert "dependency cycle: a -> b -> a" in text
    assert "a needs b   f:1" in text
    assert "b needs a" in text
    assert "c -> d -> c" in text
    assert "make optional or remove a -> b" in text
    assert "no fewer will do" in text
    assert "make one of these edges optional" in str(DependencyCycle(("a", "a")))


def test_a_step_that_leads_nowhere() -> None:
    """A state without any step says so."""
    assert str(IllegalTransition("x", "gone", "back", ())) == "x is gone and can't become back; from there it can become: nothing"


def test_details_are_the_errors_own() -> None:
    """Changing what was handed in later does not change the error."""
    details = {"a": 1}
    error = RemoteError("", details=details, service="a", method="m")
    mine = ServiceError("", details=details)
    details["a"] = 2
    assert error.details == mine.details == {"a": 1}
