"""Which headers every broker can carry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.transports.headers import MOST_BYTES, check_key, checked_headers, without_reserved

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name[:2].lower() != "x-" and name.isprintable())
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=9),
        st.binary(max_size=9),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((depth(item) for item in inner), default=0)


@given(st.dictionaries(NAMES, PLAIN.filter(lambda value: depth(value) < 7), max_size=4))
def test_plain_data_is_copied(headers: dict[str, Any]) -> None:
    """Plain data comes out equal, and shares nothing that can be changed."""
    copy = checked_headers(headers)
    assert copy == headers
    assert copy is not headers
    for name, value in headers.items():
        if isinstance(value, list | dict):
            assert copy[name] is not value


def test_size_counts_what_is_nested() -> None:
    """The limit on size is on all of it, not on each value."""
    part = "x" * (MOST_BYTES // 4)
    assert checked_headers({"a": [part, part], "b": {"c": part}})
    with pytest.raises(ValueError, match="over the limit"):
        checked_headers({"a": [part, part], "b": {"c": [part, part]}})


def test_surrogates() -> None:
    """Text that is not Unicode is refused, as no broker could write it."""
    with pytest.raises(ValueError):
        checked_headers({"a": "\ud800"})


def test_without_reserved() -> None:
    """Of what comes from anywhere the names of the broker and those that are no names are left out."""
    odd: dict[Any, Any] = {"x-death": 1, "X-Any": 2, 3: 4, "mine": 5}
    assert without_reserved(odd) == {"mine": 5}


@pytest.mark.parametrize("key", ["", "a" * 255, "ü" * 127])
def test_keys(key: str) -> None:
    """A key may have up to 255 bytes."""
    check_key(key)
