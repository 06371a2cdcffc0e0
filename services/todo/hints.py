"""When a note wants to be done, and how urgently, from what it says in English."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Final

from services.todo.contracts import TodoPriority

_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
            "september sep sept", "october oct", "november nov", "december dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_NUMBERS: Final = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "ten": 10}
_URGENT: Final = re.compile(r"\b(urgent(ly)?|asap|immediately|right away|critical|important|top priority|high priority)\b|!!")
_RELAXED: Final = re.compile(r"\b(some ?day|eventually|no rush|no hurry|whenever|low priority|if (there is|i have) time|maybe)\b")

_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
_ORDINAL: Final = "(?:st|nd|rd|th)?"  # codespell:ignore nd
_COUNT: Final = "|".join((*sorted(_NUMBERS, key=len, reverse=True), r"\d{1,3}"))


def due_hint(text: str, today: datetime.date) -> datetime.date | None:
    """The first day that the text names, on or after ``today``; a date without a year is the next one of it."""
    lowered = text.lower()
    for pattern, read in _READERS:
        for match in pattern.finditer(lowered):
            day = read(match, today)
            if day is not None:
                return day
    return None


def priority_hint(text: str) -> TodoPriority | None:
    """High or low when the text says so, otherwise None; urgent words win over relaxed ones."""
    lowered = text.lower()
    if _URGENT.search(lowered):
        return TodoPriority.HIGH
    return TodoPriority.LOW if _RELAXED.search(lowered) else None


def _iso(match: re.Match[str], today: datetime.date) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(match[0])
    except ValueError:
        return None


def _month_and_day(match: re.Match[str], today: datetime.date) -> datetime.date | None:
    month, day = _MONTHS[match["month"]], int(match["day"])
    for year in (today.year, today.year + 1, today.year + 2, today.year + 3, today.year + 4):  # to the next 29 February
        try:
            found = datetime.date(year, month, day)
        except ValueError:
            continue
        if found >= today:
            return found
    return None


def _in_some_time(match: re.Match[str], today: datetime.date) -> datetime.date:
    count = _NUMBERS[match["count"]] if match["count"] in _NUMBERS else int(match["count"])
    return today + datetime.timedelta(days=count * {"day": 1, "week": 7, "month": 30}[match["unit"]])


def _weekday(match: re.Match[str], today: datetime.date) -> datetime.date:
    ahead = (_DAYS.index(match["day"]) - today.weekday()) % 7 or 7
    # "next friday" said on a monday is the one of the week after.
    if match["next"] and today.weekday() + ahead < 7:
        ahead += 7
    return today + datetime.timedelta(days=ahead)


def _relative(match: re.Match[str], today: datetime.date) -> datetime.date:
    days = {
        "today": 0, "tonight": 0, "tomorrow": 1, "the day after tomorrow": 2,
        "this weekend": (5 - today.weekday()) % 7, "next week": 7 - today.weekday(),
        "end of the week": (4 - today.weekday()) % 7, "end of week": (4 - today.weekday()) % 7,
    }  # fmt: skip
    return today + datetime.timedelta(days=days[match[0]])


_READERS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], datetime.date], datetime.date | None]], ...]] = (
    (re.compile(r"\b\d{4}-\d{2}-\d{2}\b"), _iso),
    (re.compile(rf"\b(?P<month>{_MONTH})\.? (?P<day>\d{{1,2}}){_ORDINAL}\b"), _month_and_day),
    (
        re.compile(rf"\b(?P<day>\d{{1,2}}){_ORDINAL}\.?(?: of)? (?P<month>{_MONTH})\b"),
        _month_and_day,
    ),
    (re.compile(rf"\bin (?P<count>{_COUNT}) (?P<unit>day|week|month)s?\b"), _in_some_time),
    (
        re.compile(r"\b(?:the day after tomorrow|today|tonight|tomorrow|this weekend|next week|end of (?:the )?week)\b"),
        _relative,
    ),
    (re.compile(rf"\b(?P<next>next )?(?P<day>{'|'.join(_DAYS)})\b"), _weekday),
)
