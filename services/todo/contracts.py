"""What the to-do services say to each other. Unknown fields are ignored, so that one side may be newer."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Notes = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$")]
MailAddress = Annotated[str, StringConstraints(pattern=r"^[^@\s<>,;\"]{1,64}@[A-Za-z0-9.\-]{1,190}$")]
Limit = Annotated[int, Field(ge=1, le=500)]
Position = Annotated[int, Field(ge=0)]


class Contract(BaseModel):
    """Values on the wire don't change once they are made."""

    model_config = ConfigDict(frozen=True)


# to-dos -------------------------------------------------------------------------------------------------------------


class TodoPriority(enum.StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Todo(Contract):
    """One to-do.

    Attributes:
        version: of its stream: how many events made it what it is.
        position: of the last of these events in the whole store; hand it to a query as ``at_least`` to read your own write.
    """

    id: Identifier
    title: Title
    notes: Notes = ""
    owner_email: MailAddress | None = None
    priority: TodoPriority = TodoPriority.NORMAL
    due: datetime.date | None = None
    done: bool = False
    created_at: AwareDatetime
    updated_at: AwareDatetime
    completed_at: AwareDatetime | None = None
    version: int = Field(ge=1)
    position: Position


class TodoStatus(enum.StrEnum):
    OPEN = "open"
    DONE = "done"
    ANY = "any"


class TodoQuery(Contract):
    """Which to-dos.

    Attributes:
        text: words that must all occur in the title or the notes, without regard to case and accents; empty is any.
        ids: only these; empty is any.
        after: the ``next`` of the page before.
        at_least: a ``Todo.position`` that the answer must have taken in.
    """

    status: TodoStatus = TodoStatus.ANY
    text: str = Field(default="", max_length=200)
    ids: tuple[Identifier, ...] = Field(default=(), max_length=500)
    limit: Limit = 50
    after: str | None = Field(default=None, max_length=200)
    at_least: Position = 0


class TodoPage(Contract):
    """To-dos, oldest first. ``next`` asks for what follows, ``None`` when there is nothing more."""

    todos: tuple[Todo, ...]
    next: str | None = None


# commands -----------------------------------------------------------------------------------------------------------


class Command(Contract):
    """``command_id`` names the intention: sent again with the same one, a command has its effect once."""

    command_id: Identifier


class CreateTodo(Command):
    title: Title
    notes: Notes = ""
    owner_email: MailAddress | None = None
    priority: TodoPriority = TodoPriority.NORMAL
    due: datetime.date | None = None


class ChangeTodo(Command):
    """``expected_version`` refuses the command when somebody else has changed the to-do since."""

    id: Identifier
    expected_version: int | None = Field(default=None, ge=1)


class CompleteTodo(ChangeTodo):
    pass


class RenameTodo(ChangeTodo):
    title: Title


class DeleteTodo(ChangeTodo):
    pass


class TodoDeleted(Contract):
    id: Identifier
    position: Position


# events -------------------------------------------------------------------------------------------------------------


class NewEvent(Contract):
    """``type`` is also the topic that it is published under, such as ``todo.created``."""

    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9\-]*(\.[a-z][a-z0-9\-]*)+$", max_length=100)]
    data: dict[str, Any]


class RecordedEvent(NewEvent):
    """An event as the store keeps and publishes it.

    Attributes:
        id: unique; the same in every repetition.
        stream: whose event it is; ``version`` counts within it from 1.
        position: counts over all streams from 1, without gaps.
        command_id: what caused it.
    """

    id: str
    stream: Identifier
    version: int = Field(ge=1)
    position: int = Field(ge=1)
    command_id: Identifier | None = None
    at: AwareDatetime


class AppendEvents(Contract):
    """``expected_version``: of the stream before them; 0 for a stream that must not exist yet."""

    stream: Identifier
    expected_version: int = Field(ge=0)
    events: tuple[NewEvent, ...] = Field(min_length=1, max_length=100)
    command_id: Identifier | None = None


class Appended(Contract):
    """``repeated``: this ``command_id`` had been taken before; these are the events of then, and nothing was added."""

    events: tuple[RecordedEvent, ...]
    repeated: bool = False


class EventPage(Contract):
    """Events in order. ``last`` is the highest position in the store, so a reader knows how far behind it is."""

    events: tuple[RecordedEvent, ...]
    last: Position


class Projection(Contract):
    """One step of a read model: rows to write and the position that they reach, if ``expected`` is where it stands."""

    name: Identifier
    expected: Position
    position: Position
    todos: tuple[Todo, ...] = ()
    deleted: tuple[Identifier, ...] = ()


class DatabaseFacts(Contract):
    """``schema_version`` is the last migration applied; ``bytes`` the size of the file."""

    schema_version: int
    events: int
    unpublished: int
    todos: int
    bytes: int


# cache --------------------------------------------------------------------------------------------------------------

CacheName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]


class CacheEntry(Contract):
    """``ttl`` in seconds; None keeps it until it is evicted. ``only_new`` leaves an entry that is there alone."""

    namespace: CacheName
    key: CacheName
    value: Any
    ttl: Seconds | None = None
    only_new: bool = False


class CacheAnswer(Contract):
    """``found`` tells a stored None from nothing."""

    found: bool
    value: Any = None


class CacheFacts(Contract):
    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int


# meaning ------------------------------------------------------------------------------------------------------------

Vector = Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)]


class Embeddings(Contract):
    """One unit vector per text, in order. ``model`` names what made them; only vectors of one model can be compared."""

    model: str
    dimensions: int
    vectors: tuple[Vector, ...]


class VectorItem(Contract):
    """``metadata`` comes back with every match; at most 8 KiB as JSON."""

    id: Identifier
    vector: Vector
    metadata: dict[str, Any] = Field(default_factory=dict)


class VectorBatch(Contract):
    namespace: Identifier
    items: tuple[VectorItem, ...] = Field(max_length=1000)


class VectorQuery(Contract):
    """``min_score``: cosine, -1 to 1."""

    namespace: Identifier
    vector: Vector
    limit: Limit = 10
    min_score: float = Field(default=-1.0, ge=-1.0, le=1.0)


class VectorMatch(Contract):
    id: str
    score: float
    metadata: dict[str, Any]


class VectorNamespace(Contract):
    """``store`` is new whenever the store has begun empty, which tells an indexer that its work is gone."""

    namespace: str
    store: str
    vectors: int
    dimensions: int | None


class SearchByMeaning(Contract):
    """``at_least``: a ``Todo.position`` that the answer must have taken in."""

    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    status: TodoStatus = TodoStatus.ANY
    limit: Limit = 10
    at_least: Position = 0


class Match(Contract):
    """``score``: cosine of the two texts' embeddings, 0 to 1."""

    id: str
    title: str
    done: bool
    due: datetime.date | None = None
    score: float


class Matches(Contract):
    matches: tuple[Match, ...]


class Question(Contract):
    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    limit: Limit = 5


class Answer(Contract):
    """``answer`` is put together from the to-dos in ``sources`` and from nothing else."""

    answer: str
    sources: tuple[Match, ...]


class Mood(enum.StrEnum):
    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"


class TextInsight(Contract):
    """What can be seen in a text.

    Attributes:
        language: ISO 639-1 of the best guess among those known, or ``und``.
        sentiment: -1 (negative) to 1 (positive) by a word list.
        due, priority: hints, None where the text gives none.
    """

    language: str
    sentiment: float
    mood: Mood
    keywords: tuple[str, ...]
    due: datetime.date | None
    priority: TodoPriority | None
    words: int
