"""What can be told from a short text by word lists."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from fabric import Health, Service, rpc
from fabric.clock import Clock, SystemClock
from services.todo.contracts import Mood, TextInsight, TodoPriority
from services.todo.hints import due_hint, priority_hint
from services.todo.words import STOP_WORDS, content_words, stem, word_set, words_of

Text = Annotated[str, StringConstraints(max_length=20_000)]

_POSITIVE: Final = frozenset(
    stem(word)
    for word in word_set(
        """
        amazing awesome beautiful best celebrate congratulations delicious easy enjoy excellent excited
        fantastic fun glad good great happy helpful joy like love lovely nice perfect pleased proud relax
        super thank thanks welcome win wonderful
        """
    )
)
_NEGATIVE: Final = frozenset(
    stem(word)
    for word in word_set(
        """
        afraid angry annoying awful bad boring broken bug complain crash dead difficult dirty fail failed fear
        hard hate horrible hurt late lost miss missed overdue pain painful poor problem sad sick stress
        terrible tired ugly unhappy worried worry worst wrong
        """
    )
)
_NEGATIONS: Final = word_set("not no never don't doesn't didn't isn't wasn't can't won't without")


class TextAnalysis:
    """Language, sentiment, keywords and hints. Word lists and rules, no statistics: it is quick and its limits show."""

    def analyze(self, text: str, *, keywords: int, today: datetime.date) -> TextInsight:
        words = words_of(text.replace("’", "'"))
        language = self.language(words)
        score = self.sentiment(words)
        return TextInsight(
            language=language,
            sentiment=score,
            mood=Mood.POSITIVE if score > 0.2 else Mood.NEGATIVE if score < -0.2 else Mood.NEUTRAL,
            keywords=self.keywords(text, language, keywords),
            due=due_hint(text, today),
            priority=priority_hint(text),
            words=len(words),
        )

    def language(self, words: list[str]) -> str:
        """The language with the most of its little words in the text; ``und`` when none is ahead."""
        counts = sorted(((sum(word in stops for word in words), code) for code, stops in STOP_WORDS.items()), reverse=True)
        (most, code), (second, _) = counts[:2]
        return code if most > second else "und"

    def sentiment(self, words: list[str]) -> float:
        """-1 to 1: good words minus bad ones over all of them; a negation turns the next two words round."""
        total = hits = 0
        for at, word in enumerate(words):
            value = (stem(word) in _POSITIVE) - (stem(word) in _NEGATIVE)
            if value:
                negated = any(before in _NEGATIONS for before in words[max(0, at - 2) : at])
                total += -value if negated else value
                hits += 1
        return total / hits if hits else 0.0

    def keywords(self, text: str, language: str, limit: int) -> tuple[str, ...]:
        """The most frequent stems that carry meaning, ties in order of appearance; numbers are not keywords."""
        counts = Counter(word for word in content_words(text, language) if len(word) > 1 and not word.isdigit())
        return tuple(word for word, _ in counts.most_common(limit))


class NlpService(Service):
    """Capability ``text-analysis``."""

    name, version = "nlp-service", "1.0.0"
    capabilities = ("text-analysis",)

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._analysis = TextAnalysis()

    async def check_health(self) -> Health:
        seen = self._analysis.analyze("Urgent: fix the broken sink by 2030-01-02", keywords=3, today=datetime.date(2029, 12, 31))
        if (seen.language, seen.priority, seen.due) != ("en", TodoPriority.HIGH, datetime.date(2030, 1, 2)):
            return Health.bad(
                f"a known text was misread as {seen.language}, {seen.priority}, {seen.due}: the word lists are damaged"
            )
        return Health.ok(languages=sorted(STOP_WORDS))

    @rpc(idempotent=True, timeout=3.0, concurrency=8)
    async def analyze(
        self, text: Text, keywords: Annotated[int, Field(ge=0, le=50)] = 5, today: datetime.date | None = None
    ) -> TextInsight:
        """What can be seen in ``text``; ``today`` is what "tomorrow" counts from, by default the day in UTC."""
        now = datetime.datetime.fromtimestamp(self._clock.time(), datetime.UTC).date()
        return self._analysis.analyze(text, keywords=keywords, today=today or now)
