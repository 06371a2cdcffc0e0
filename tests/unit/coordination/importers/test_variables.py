"""Variables in compose files."""

from __future__ import annotations

import pytest

from fabric.coordination.importers.variables import Variables, read_env
from fabric.errors import ConfigurationError

VALUES = {"A": "1", "EMPTY": "", "B": "two"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("no variable", "no variable"),
        ("$A-${B}-$$A", "1-two-$A"),
        ("${NONE:-x}${EMPTY:-y}${A:-z}", "xy1"),
        ("${NONE-x}${EMPTY-y}", "x"),
        ("${NONE:+x}${EMPTY:+y}${A:+z}", "z"),
        ("${NONE+x}${EMPTY+y}${A+z}", "yz"),
        ("${A:?why}${A?why}", "11"),
        ("${NONE:-${ALSO_NONE:-$B}}", "two"),
        ("${NONE:-a}b}", "ab}"),
        ("$NONE.", "."),
    ],
)
def test_each_form(text: str, filled: str) -> None:
    """Every form of the Compose Specification, nested ones included."""
    assert Variables(VALUES).fill(text, "f:1") == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE:?set it to $B}", "the variable NONE is not set: set it to two"),
        ("${EMPTY:?}", "the variable EMPTY is not set: it must be set"),
        ("${NONE?}", "NONE is not set"),
        ("${1}", "does not begin with the name"),
        ("${A", "is not closed"),
        ("${A!x}", "write \\$\\{NAME\\}"),
        ("5 $", "a dollar sign alone"),
        ("${X:-" * 30 + "}" * 30, "too deep"),
    ],
)
def test_what_can_not_be_filled(text: str, message: str) -> None:
    """Broken forms and variables that must be set are refused with their place."""
    with pytest.raises(ConfigurationError, match=message) as refused:
        Variables(VALUES).fill(text, "f:1")
    assert refused.value.source == "f:1"


def test_what_was_not_set_is_remembered() -> None:
    """Names without a value and without a default are listed once."""
    variables = Variables(VALUES)
    variables.fill("$NONE ${NONE} ${OTHER:-x} $A", "f:1")
    assert list(variables.unset) == ["NONE"]


ENV = """\
# a comment
A=1
export B = two words # no comment of its own
C='$A # kept'
D="line\\none $A \\$A"
E=${A}${GIVEN:-none}
F="two
lines"
G=
H
"""


def test_a_file_of_variables() -> None:
    """Quotes, comments, escapes, several lines and variables in variables; the environment wins."""
    found = read_env(ENV, ".env", {"GIVEN": "g", "A": "9"}, {})
    assert found == {
        "A": "9",
        "B": "two words",
        "C": "$A # kept",
        "D": "line\none 9 $A",
        "E": "9g",
        "F": "two\nlines",
        "G": "",
        "H": "",
    }


@pytest.mark.parametrize(
    ("text", "message"), [("A=1\n?!", r"v\.env:2: '\?!' is not NAME=VALUE"), ("A='x\ny", "no closing quote")]
)
def test_a_broken_file_of_variables(text: str, message: str) -> None:
    """A line that is none is refused with its place."""
    with pytest.raises(ConfigurationError, match=message):
        read_env(text, "v.env", {}, {})
