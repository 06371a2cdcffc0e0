"""Any message that there can be, as hypothesis strategies."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fabric.wire.message import MessageType, Priority, ServiceMessage

unhurried = settings(deadline=None)
"""How long one example takes depends on what else the machine does, and decides nothing."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WHOLE = st.integers(-(2**63), 2**64 - 1)


def plain(*, binary: bool) -> SearchStrategy[Any]:
    """Plain data. JSON has no bytes, no NaN and no infinity."""
    leaves: list[SearchStrategy[Any]] = [st.none(), st.booleans(), WHOLE, TEXT]
    leaves += (
        [st.floats(allow_nan=False), st.binary(max_size=40)] if binary else [st.floats(allow_nan=False, allow_infinity=False)]
    )
    return st.recursive(
        st.one_of(*leaves),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
        max_leaves=20,
    )


def messages(*, binary: bool) -> SearchStrategy[ServiceMessage]:
    maps = st.none() | st.dictionaries(TEXT, plain(binary=binary), max_size=4)
    return st.builds(
        ServiceMessage,
        id=TEXT,
        type=st.sampled_from(MessageType),
        source=TEXT,
        instance=TEXT,
        to=TEXT,
        method=TEXT,
        payload=plain(binary=binary),
        priority=st.sampled_from(Priority),
        correlation_id=st.none() | TEXT,
        deadline=st.none() | st.floats(-1e11, 1e11) | st.integers(-(10**11), 10**11),
        attempt=st.integers(1, 2**31 - 1),
        reply_to=st.none() | TEXT,
        error=maps,
        headers=maps,
    )


def request(payload: Any = None, **fields: Any) -> ServiceMessage:
    """An ordinary request, for what hypothesis need not vary."""
    whole: dict[str, Any] = {
        "id": "7-1",
        "type": MessageType.REQUEST,
        "source": "checkout",
        "instance": "reply.7",
        "to": "email-service",
        "method": "send_email",
        "payload": payload,
        "deadline": 1.7e9,
        "reply_to": "reply.7",
        **fields,
    }
    return ServiceMessage(**whole)
