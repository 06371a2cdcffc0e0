"""Words of short notes: folding, stems, stop words and a small table of meanings.

The table holds what to-do lists are about, in English. It is a table and not a language model: what is not in it has no
meaning here beyond its spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")


def word_set(text: str) -> frozenset[str]:
    """The words of a list written as text."""
    return frozenset(text.split())


STOP_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "en": word_set(
        """
        a about after all am an and any are as at be been before but by can did do does for from get go had
        has have he her him his how i if in into is it its just me more must my need no not of on or our out
        please she should so some that the their them then there these they this to up us was we were what
        when where which who why will with would you your
        """
    ),
    "de": word_set(
        "aber alle als am an auch auf aus bei bin bis bitte das dass dem den der des die dir doch"  # codespell:ignore
        " du ein eine einem einen einer er es für haben hat ich ihm ihn ihr im in ist ja kein mein"  # codespell:ignore
        " meine mich mir mit muss müssen nach nicht noch nur oder sein sich sie sind so über um"  # codespell:ignore
        " und uns unser vom von vor war was wenn wer wie wir wird zu zum zur"  # codespell:ignore
    ),
    "fr": word_set(
        "à au aux avec ce ces dans de des doit du elle en est et eux faut il ils je la le les"  # codespell:ignore
        " leur lui ma mais me mes moi mon ne nos notre nous on ou par pas pour qu que qui sa sans"  # codespell:ignore
        " se ses son sur ta te tes toi ton tu un une vos votre vous"  # codespell:ignore
    ),
    "es": word_set(
        "a al como con de del el ella en es esta este hay la las le lo los más me mi mis muy no"  # codespell:ignore
        " nos o para pero por que se sin sobre su sus también te tengo tu un una uno unos y ya yo"  # codespell:ignore
    ),
}

_IRREGULAR: Final = {
    "bought": "buy", "paid": "pay", "went": "go", "sent": "send", "wrote": "write", "written": "write", "made": "make",
    "met": "meet", "spoke": "speak", "told": "tell", "children": "child", "kids": "kid", "teeth": "tooth", "taxes": "tax",
    "fixed": "fix", "booking": "book", "groceries": "grocery", "batteries": "battery", "bikes": "bike", "keys": "key",
}  # fmt: skip

_MEANINGS: Final[Mapping[str, str]] = {
    "acquire": "buy purchase shop order acquire grab get obtain fetch pick collect",
    "grocery": "grocery supermarket food shop store market milk bread egg cheese butter fruit vegetable apple rice pasta",
    "dairy": "milk cheese butter yogurt cream dairy",
    "contact": "call phone ring telephone dial contact speak talk",
    "message": "email mail message letter write reply answer respond send",
    "mother": "mom mum mother mama mommy mummy",
    "father": "dad father papa daddy",
    "parent": "parent mom mum mother dad father",
    "child": "child kid son daughter baby toddler",
    "pay": "pay settle transfer owe payment",
    "bill": "bill invoice rent fee payment charge",
    "power": "electricity power energy electric",
    "reserve": "book reserve reservation schedule appointment arrange",
    "doctor": "doctor dentist physician clinic gp hospital checkup appointment",
    "teeth": "tooth dentist dental",
    "repair": "fix repair mend restore broken",
    "bicycle": "bike bicycle cycle",
    "car": "car vehicle auto automobile garage mechanic",
    "clean": "clean tidy wash scrub vacuum mop dust",
    "kitchen": "kitchen cook cooking oven stove",
    "laundry": "laundry wash clothes washing iron",
    "report": "report document paper summary memo writeup",
    "quarter": "quarter quarterly q1 q2 q3 q4",
    "write": "write draft prepare compose author",
    "meal": "dinner lunch breakfast meal restaurant eat table",
    "travel": "trip travel journey holiday vacation flight passport visa",
    "renew": "renew extend prolong refresh",
    "flight": "flight plane fly airline airport",
    "gift": "gift present",
    "celebrate": "birthday party anniversary celebrate celebration",
    "dog": "dog puppy hound",
    "cat": "cat kitten",
    "pet": "dog puppy cat kitten pet vet",
    "walk": "walk stroll hike",
    "exercise": "gym exercise workout run jog train fitness sport swim",
    "meeting": "meeting meet call conference standup appointment",
    "colleague": "boss manager colleague team coworker",
    "learn": "learn study practice course lesson revise",
    "read": "read book novel article",
    "trash": "trash garbage rubbish waste bin",
    "plant": "plant flower garden water lawn",
    "money": "money bank account budget tax finance",
    "tax": "tax declaration return irs",
    "medicine": "medicine pill pharmacy prescription drug tablet",
    "computer": "computer laptop pc server backup",
    "software": "code bug release deploy software program",
    "test": "test check verify review inspect",
    "home": "house home flat apartment room",
    "move": "move relocate carry bring take deliver",
    "cancel": "cancel terminate end quit unsubscribe",
    "begin": "begin start launch kick",
}


def fold(text: str) -> str:
    """Lower case without accents, for comparing: ``"Café"`` and ``"cafe"`` are the same."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def words_of(text: str) -> list[str]:
    """The words of ``text`` in order, in lower case, with their accents; a possessive ``'s`` is dropped."""
    return [re.split("['’]", word)[0] if word.endswith(("'s", "’s")) else word for word in _WORD.findall(text.lower())]


def stem(word: str) -> str:
    """A word without its commonest English endings. Crude, and the same for both sides of a comparison."""
    folded = fold(word)
    if folded in _IRREGULAR:
        return _IRREGULAR[folded]
    if len(folded) > 4 and folded.endswith("ies"):
        return folded[:-3] + "y"
    for ending in ("ing", "ed"):
        if folded.endswith(ending) and len(folded) - len(ending) >= 3:
            return _single(folded[: -len(ending)])
    if folded.endswith(("ches", "shes", "sses", "xes")):
        return folded[:-2]
    if len(folded) > 3 and folded.endswith("s") and not folded.endswith(("ss", "us", "is")):
        return folded[:-1]
    return folded


def _single(word: str) -> str:
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls"
    return word[:-1] if doubled else word


def content_words(text: str, language: str = "en") -> list[str]:
    """The stems of the words that carry meaning, in order, with repetitions."""
    stops = STOP_WORDS.get(language, frozenset())
    return [stem(word) for word in words_of(text) if word not in stops]


def meanings_of(stemmed: str) -> tuple[str, ...]:
    """The entries of the table that a stem belongs to."""
    return _BY_STEM.get(stemmed, ())


def _index(meanings: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    index: dict[str, tuple[str, ...]] = {}
    for meaning, words in meanings.items():
        for word in words:
            key = stem(word)
            if meaning not in index.get(key, ()):
                index[key] = (*index.get(key, ()), meaning)
    return index


_BY_STEM: Final = _index({meaning: words.split() for meaning, words in _MEANINGS.items()})
