"""Ids of messages."""

from __future__ import annotations

from fabric.wire.message import MessageIds


def test_ids_of_one_process_are_unique() -> None:
    """Ten thousand ids of one source are all different."""
    ids = MessageIds()
    assert len({ids.next() for _ in range(10_000)}) == 10_000


def test_ids_of_two_processes_do_not_meet() -> None:
    """Two sources share no id, for their prefixes are random."""
    first, second = MessageIds(), MessageIds()
    assert not {first.next() for _ in range(1000)} & {second.next() for _ in range(1000)}


def test_ids_repeat_for_a_test_that_wants_it() -> None:
    """With a given prefix the ids are known beforehand."""
    ids = MessageIds("t")
    assert [ids.next(), ids.next()] == ["t-1", "t-2"]
