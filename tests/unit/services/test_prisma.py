"""The owner of the database, on the bus."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import pytest

from fabric import Hub
from fabric.errors import RemoteError
from fabric.testing import Bench
from services.todo.contracts import AppendEvents, NewEvent, Projection, Todo, TodoQuery, TodoStatus
from services.todo.prisma import PrismaService, PrismaSettings

AT = datetime.datetime(2024, 1, 15, 12, 0, tzinfo=datetime.UTC)


def append(stream: str, expected: int, *types: str, command: str | None = None) -> AppendEvents:
    events = tuple(NewEvent(type=type, data={"n": number}) for number, type in enumerate(types))
    return AppendEvents(stream=stream, expected_version=expected, events=events, command_id=command)


def todo(id: str, title: str, *, minute: int = 0, done: bool = False, notes: str = "") -> Todo:
    at = AT + datetime.timedelta(minutes=minute)
    return Todo(id=id, title=title, notes=notes, done=done, created_at=at, updated_at=at, version=1, position=1)


@pytest.fixture
async def database(bench: Bench, hub: Hub, tmp_path: Path) -> PrismaService:
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)), instance="prisma-1")
    return hub.proxy(PrismaService)


async def test_events_are_numbered_in_their_stream_and_over_all(database: PrismaService) -> None:
    """Versions count in a stream, positions over all without gaps, and each event is noted as unpublished until it is not."""
    await database.append_events(append("a", 0, "x.made", "x.used"))
    await database.append_events(append("b", 0, "x.made"))
    appended = await database.append_events(append("a", 2, "x.used"))
    assert [(event.version, event.position) for event in appended.events] == [(3, 4)]
    everything = await database.read_all()
    assert [(event.stream, event.version, event.position) for event in everything.events] == [
        ("a", 1, 1), ("a", 2, 2), ("b", 1, 3), ("a", 3, 4)
    ]  # fmt: skip
    assert everything.last == 4
    assert [event.version for event in (await database.read_stream("a", 1)).events] == [2, 3]
    assert [event.position for event in (await database.read_all(2, 1)).events] == [3]
    assert await database.mark_published((1, 2, 3)) == 3
    assert await database.mark_published((1, 2, 3)) == 0
    assert await database.unpublished_events() == list(appended.events)


async def test_of_two_writers_one_is_refused(database: PrismaService) -> None:
    """Both expect the same version: one appends, the other learns the version there is, and nothing of it is stored."""
    outcomes = await asyncio.gather(
        *(database.append_events(append("a", 0, "x.made", "x.used")) for _ in range(5)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, RemoteError)]
    assert len(refused) == 4
    assert {(error.code, error.details["actual"]) for error in refused} == {("events.version-conflict", 2)}
    assert (await database.facts()).events == 2


async def test_a_command_counts_once(database: PrismaService) -> None:
    """Repeated, it gets the events of the first time; for another stream its id is refused."""
    first = await database.append_events(append("a", 0, "x.made", command="c1"))
    again = await database.append_events(append("a", 0, "x.made", command="c1"))
    assert (again.repeated, again.events) == (True, first.events)
    with pytest.raises(RemoteError) as raised:
        await database.append_events(append("b", 0, "x.made", command="c1"))
    assert raised.value.code == "events.command-reused"


async def test_a_projection_moves_only_from_where_it_stands(database: PrismaService) -> None:
    """Rows and position are written together, and not at all when another was faster."""
    step = Projection(name="p", expected=0, position=3, todos=(todo("1", "Buy milk"), todo("2", "Call mom")))
    assert await database.project(step)
    assert not await database.project(step.model_copy(update={"todos": (todo("1", "changed"),)}))
    assert await database.checkpoint("p") == 3
    assert await database.checkpoint("other") == 0
    assert await database.project(Projection(name="p", expected=3, position=4, todos=(todo("1", "Bread"),), deleted=("2",)))
    assert [row.title for row in (await database.select_todos(TodoQuery())).todos] == ["Bread"]


async def test_rows_come_back_as_they_went(database: PrismaService) -> None:
    """Every field of a to-do survives the table."""
    full = todo("1", "Buy milk", notes="two\nlitres").model_copy(
        update={"owner_email": "a@example.org", "due": AT.date(), "done": True, "completed_at": AT, "version": 5, "position": 9}
    )
    await database.project(Projection(name="p", expected=0, position=9, todos=(full,)))
    assert (await database.select_todos(TodoQuery())).todos == (full,)


async def test_questions_are_answered_by_text_status_and_page(database: PrismaService) -> None:
    """All words must occur, whatever their case and accents; marks of SQL are letters; pages follow each other gapless."""
    rows = (
        todo("1", "Café crème kaufen", minute=1),
        todo("2", "100% sure_thing", minute=2, done=True),
        todo("3", "Buy milk", minute=3, notes="and a café"),
        todo("4", "Buy 100 eggs", minute=3),
    )
    await database.project(Projection(name="p", expected=0, position=1, todos=rows))

    async def found(**query: object) -> list[str]:
        return [row.id for row in (await database.select_todos(TodoQuery.model_validate(query))).todos]

    assert await found(text="CAFE") == ["1", "3"]
    assert await found(text="cafe buy") == ["3"]
    assert await found(text="100%") == ["2"]
    assert await found(text="e_t") == ["2"]
    assert await found(text="'; DROP TABLE todos; --") == []
    assert await found(status=TodoStatus.DONE) == ["2"]
    assert await found(status=TodoStatus.OPEN, ids=("2", "3")) == ["3"]
    first = await database.select_todos(TodoQuery(limit=3))
    assert [row.id for row in first.todos] == ["1", "2", "3"]
    assert await found(limit=3, after=first.next) == ["4"]
    with pytest.raises(RemoteError) as raised:
        await found(after="nonsense")
    assert raised.value.code == "todo.bad-cursor"


async def test_it_keeps_its_data_over_a_restart(bench: Bench, database: PrismaService, tmp_path: Path) -> None:
    """Stopped and started again on the same file, everything is there."""
    await database.append_events(append("a", 0, "x.made"))
    await bench.stop("prisma-1")
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)))
    facts = await database.facts()
    assert (facts.events, facts.unpublished, facts.schema_version) == (1, 1, 2)


async def test_a_start_that_fails_can_be_tried_again(bench: Bench, tmp_path: Path) -> None:
    """S1 (systemd#18856): where the directory can't be made the start fails with the reason; made possible, it succeeds."""
    blocked = tmp_path / "data"
    blocked.write_text("in the way")
    service = PrismaService(PrismaSettings(data_dir=blocked))
    with pytest.raises(OSError, match="data"):
        await service.start()
    await service.stop()
    blocked.unlink()
    await bench.start(service)
    assert (await service.check_health()).is_ok


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """TODO_DATABASE wins over FABRIC_DATA_DIR, and an empty one counts as none."""
    monkeypatch.setenv("FABRIC_DATA_DIR", "d")
    assert PrismaSettings().path == Path("d/todo.sqlite3")
    monkeypatch.setenv("TODO_DATABASE", "")
    assert PrismaSettings().path == Path("d/todo.sqlite3")
    monkeypatch.setenv("TODO_DATABASE", "x.db")
    assert PrismaSettings().path == Path("x.db")
