"""The backlog of a queue against a model: a list that is sorted and searched."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fabric.transports.backlog import Backlog, Held, Published
from fabric.wire.message import Priority


def held(priority: Priority, expires_at: float | None) -> Held:
    return Held(Published("", "q", b"", "", priority, None, {}, None, expires_at))


class BacklogMachine(RuleBasedStateMachine):
    """Pushes, pops, returns and lets time pass, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.backlog = Backlog()
        self.waiting: list[Held] = []
        self.taken: list[Held] = []

    @rule(priority=st.sampled_from(Priority), lives=st.one_of(st.none(), st.integers(1, 10)))
    def push(self, priority: Priority, lives: int | None) -> None:
        message = held(priority, None if lives is None else self.now + lives)
        self.backlog.push(message)
        self.waiting.append(message)

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def pop(self) -> None:
        in_order = sorted(self.waiting, key=lambda message: (-message.message.priority, message.sequence))
        expected, dropped = None, []
        for message in in_order:
            expires_at = message.message.expires_at
            if expires_at is None or message.attempt or self.now < expires_at:
                expected = message
                break
            dropped.append(message)
        assert self.backlog.pop(self.now) is expected
        assert self.backlog.dropped == dropped
        self.backlog.dropped.clear()
        for gone in (*dropped, *([expected] if expected else [])):
            self.waiting.remove(gone)
        if expected is not None:
            expected.attempt += 1
            self.taken.append(expected)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        if self.taken:
            message = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            self.backlog.restore(message)
            self.waiting.append(message)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        if self.taken:
            message = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            self.backlog.push(message)
            self.waiting.append(message)

    @invariant()
    def counts(self) -> None:
        assert len(self.backlog) == len(self.waiting)

    def teardown(self) -> None:
        in_order = sorted(self.waiting, key=lambda message: (-message.message.priority, message.sequence))
        assert list(self.backlog.drain()) == in_order
        assert len(self.backlog) == 0


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBacklog = BacklogMachine.TestCase


def test_drop_expired() -> None:
    """Expired messages at the head of each priority can be dropped with nothing taken; what was delivered once stays."""
    backlog = Backlog()
    old, seen, fresh = held(Priority.LOW, 1.0), held(Priority.HIGH, 1.0), held(Priority.NORMAL, 9.0)
    seen.attempt = 1
    for message in (old, seen, fresh):
        backlog.push(message)
    backlog.drop_expired(5.0)
    assert backlog.dropped == [old]
    assert list(backlog.drain()) == [seen, fresh]
