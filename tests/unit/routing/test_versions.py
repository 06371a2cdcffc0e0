"""Versions and ranges, by the examples of semver.org and npm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.routing.versions import version, version_range
from tests.unit.wire.messages import unhurried

ORDERED = [
    "0.0.1",
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_are_ordered_as_semver_orders_them() -> None:
    """The example of semver.org 11.4, among others: numbers by value, text by letters, a release after its pre-releases."""
    parsed = [version(text) for text in ORDERED]
    assert None not in parsed
    assert parsed == sorted(parsed)  # type: ignore[type-var]


@pytest.mark.parametrize("text", ["", "one", "1.2.3.4", "1..2", "-1.0.0", "1.2.3 ", "1.2.3-", "9" * 20 + ".0.0"])
def test_what_is_not_a_version_is_none(text: str) -> None:
    """An announcement may say anything; it is then simply in no range but *."""
    assert version(text) is None
    assert not version_range("^1").holds(text)
    assert version_range("*").holds(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.2.3", ["1.2.3", "1.2.9", "1.9.0"], ["1.2.2", "2.0.0", "2.0.0-rc.1", "1.3.0-rc.1"]),
        ("^2", ["2.0.0", "2.9.1"], ["1.9.9", "3.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.1.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0", ["0.0.0", "0.9.0"], ["1.0.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("1.2.3", ["1.2.3", "1.2.3+build.5"], ["1.2.4"]),
        ("=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("1.2", ["1.2.0", "1.2.7"], ["1.3.0", "1.1.9"]),
        ("1.x", ["1.0.0", "1.7.3"], ["2.0.0"]),
        ("1.2.*", ["1.2.0", "1.2.5"], ["1.3.0"]),
        ("*", ["0.0.0", "9.9.9"], ["1.0.0-rc.1"]),
        (">=1.2 <3", ["1.2.0", "2.9.9"], ["1.1.9", "3.0.0", "3.0.0-rc.1"]),
        (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<1", ["0.9.9"], ["1.0.0"]),
        (">= 1.2.3", ["1.2.3"], ["1.2.2"]),
        ("^1 || ^3", ["1.4.0", "3.0.1"], ["2.0.0", "4.0.0"]),
        ("^2.0.0-rc.1", ["2.0.0-rc.1", "2.0.0-rc.2", "2.0.0", "2.1.0"], ["2.0.0-beta.1", "2.1.0-rc.1", "1.9.0"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<*", [], ["1.0.0"]),
    ],
)
def test_ranges_hold_what_npm_says_they_hold(text: str, inside: list[str], outside: list[str]) -> None:
    """Carets, tildes, comparisons, wildcards, and, or, and pre-releases only where one is named."""
    found = version_range(text)
    assert [version for version in inside if not found.holds(version)] == []
    assert [version for version in outside if found.holds(version)] == []


@pytest.mark.parametrize("text", ["", "^", "a", "1.2.3.4", "1.x.3", "^1 ||", "|| ^1", "1.2-rc.1", "!1", "^1,^2", ">=1.2<3"])
def test_what_is_not_a_range_is_refused_with_examples(text: str) -> None:
    """A typing error is found when the call is made, not taken for a range that nobody is in."""
    with pytest.raises(ConfigurationError, match="write it as"):
        version_range(text)


numbers = st.integers(0, 20)


@unhurried
@given(st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers))
def test_caret_and_tilde_by_their_definition(low: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """A caret allows what keeps the first number that is not zero, a tilde what keeps major and minor, and nothing older."""
    place = next((n for n, number in enumerate(low) if number), 2)
    text, candidate = ".".join(map(str, low)), ".".join(map(str, other))
    assert version_range(f"^{text}").holds(candidate) is (other >= low and other[: place + 1] == low[: place + 1])
    assert version_range(f"~{text}").holds(candidate) is (other >= low and other[:2] == low[:2])
