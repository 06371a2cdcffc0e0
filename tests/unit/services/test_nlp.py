"""What is read from a note: language, mood, keywords, when and how urgent."""

from __future__ import annotations

import datetime

import pytest

from fabric import Hub
from fabric.testing import Bench
from services.todo.contracts import Mood, TextInsight, TodoPriority
from services.todo.hints import due_hint, priority_hint
from services.todo.nlp import NlpService, TextAnalysis

MONDAY = datetime.date(2024, 1, 15)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("send it by 2024-03-01", datetime.date(2024, 3, 1)),
        ("not a date: 2024-13-45", None),
        ("pay rent today", MONDAY),
        ("Call mom TOMORROW", datetime.date(2024, 1, 16)),
        ("the day after tomorrow at noon", datetime.date(2024, 1, 17)),
        ("in 3 days", datetime.date(2024, 1, 18)),
        ("in two weeks", datetime.date(2024, 1, 29)),
        ("party on friday", datetime.date(2024, 1, 19)),
        ("party next friday", datetime.date(2024, 1, 26)),
        ("gym on monday", datetime.date(2024, 1, 22)),
        ("tidy up this weekend", datetime.date(2024, 1, 20)),
        ("next week", datetime.date(2024, 1, 22)),
        ("report by the end of the week", datetime.date(2024, 1, 19)),
        ("birthday on March 3rd", datetime.date(2024, 3, 3)),
        ("tax until 5 January", datetime.date(2025, 1, 5)),
        ("leap day: feb 29", datetime.date(2024, 2, 29)),
        ("on 31 February", None),
        ("buy milk", None),
    ],
)
def test_the_day_a_note_names(text: str, due: datetime.date | None) -> None:
    """Said on a Monday, each of these means that day; what is no day gives no hint."""
    assert due_hint(text, MONDAY) == due


@pytest.mark.parametrize(
    ("text", "priority"),
    [
        ("URGENT: call the bank", TodoPriority.HIGH),
        ("fix this asap", TodoPriority.HIGH),
        ("do it!!", TodoPriority.HIGH),
        ("maybe urgent", TodoPriority.HIGH),
        ("someday learn the piano", TodoPriority.LOW),
        ("no rush", TodoPriority.LOW),
        ("buy milk", None),
    ],
)
def test_the_priority_a_note_names(text: str, priority: TodoPriority | None) -> None:
    """Urgent words make it high, relaxed ones low, and urgent ones win."""
    assert priority_hint(text) == priority


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I have to buy the milk", "en"),
        ("Ich muss noch die Milch kaufen", "de"),
        ("je dois acheter du lait pour le café", "fr"),
        ("tengo que comprar la leche para el café", "es"),
        ("milk", "und"),
        ("", "und"),
    ],
)
def test_the_language_of_a_note(text: str, language: str) -> None:
    """The little words tell; without any it is undetermined."""
    assert TextAnalysis().analyze(text, keywords=3, today=MONDAY).language == language


@pytest.mark.parametrize(
    ("text", "mood"),
    [
        ("What a wonderful, happy day", Mood.POSITIVE),
        ("the terrible broken sink", Mood.NEGATIVE),
        ("this is not good", Mood.NEGATIVE),
        ("don’t worry", Mood.POSITIVE),
        ("good and bad", Mood.NEUTRAL),
        ("buy milk", Mood.NEUTRAL),
    ],
)
def test_the_mood_of_a_note(text: str, mood: Mood) -> None:
    """Good words against bad ones; a negation before a word turns it round."""
    assert TextAnalysis().analyze(text, keywords=3, today=MONDAY).mood is mood


def test_keywords_are_what_is_said_most() -> None:
    """Stems by frequency, without stop words and numbers, at most as many as asked for."""
    insight = TextAnalysis().analyze("Plan the trips: a trip to Rome, 2 trips to Oslo, hotel", keywords=3, today=MONDAY)
    assert insight.keywords == ("trip", "plan", "rome")


async def test_the_service_answers_by_capability(bench: Bench, hub: Hub) -> None:
    """Asked by capability it answers the same as the analysis itself, with tomorrow counted from the day given."""
    await bench.start(NlpService())
    payload = {"text": "Call mom tomorrow, urgent", "keywords": 2, "today": "2024-01-15"}
    insight = await hub.call_by_capability("text-analysis", "analyze", payload, returns=TextInsight)
    assert (insight.due, insight.priority, insight.keywords) == (datetime.date(2024, 1, 16), TodoPriority.HIGH, ("call", "mom"))
