from __future__ import annotations

import pytest

from fabric.transports.amqp_life import LinkLife
from fabric.transports.base import LinkEvent, LinkState


def test_a_whole_life() -> None:
    """Each step is told once, with its epoch and reason; an alarm is no new epoch, a reconnect is."""
    life = LinkLife()
    told: list[LinkEvent] = []
    life.watch(told.append)
    for state, reason in (
        (LinkState.CONNECTING, ""),
        (LinkState.READY, ""),
        (LinkState.READY, "no news"),
        (LinkState.BLOCKED, "memory"),
        (LinkState.READY, ""),
        (LinkState.RECONNECTING, "reset"),
        (LinkState.READY, ""),
        (LinkState.CLOSED, "by us"),
    ):
        life.enter(state, reason)
    assert [(event.state.value, event.epoch) for event in told] == [
        ("connecting", 0),
        ("ready", 1),
        ("blocked", 1),
        ("ready", 1),
        ("reconnecting", 1),
        ("ready", 2),
        ("closed", 2),
    ]
    assert life.counts == {"connecting": 1, "ready": 3, "blocked": 1, "reconnecting": 1, "closed": 1}


@pytest.mark.parametrize("state", [LinkState.READY, LinkState.BLOCKED, LinkState.RECONNECTING])
def test_steps_that_do_not_exist(state: LinkState) -> None:
    """A closed link can only connect."""
    with pytest.raises(RuntimeError, match="can't become"):
        LinkLife().enter(state)


def test_a_listener_that_fails_or_leaves() -> None:
    """A listener that raises keeps nobody else from hearing; one that left hears nothing."""
    life = LinkLife()
    told: list[LinkEvent] = []

    def broken(event: LinkEvent) -> None:
        raise ZeroDivisionError

    life.watch(broken)
    stop = life.watch(told.append)
    life.enter(LinkState.CONNECTING)
    stop()
    stop()
    life.enter(LinkState.CLOSED)
    assert [event.state for event in told] == [LinkState.CONNECTING]
