"""A YAML document that knows on which line each of its items stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fabric.errors import ConfigurationError

Path = tuple[str | int, ...]
"""Where an item is: keys of mappings and indices of lists, from the top."""

_MAX_ITEMS = 100_000
_MAX_DEPTH = 50
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Located:
    """Plain data, and the line and the text of every item in it.

    Attributes:
        data: None, bool, int, float, str, list, dict with str keys.
        file: its name, for messages.
        lines: from 1; of an item of a mapping it is the line of its key.
        texts: of scalars, as they are written: ``yes`` and ``007`` before YAML makes a bool and an int of them.
        tags: of items that have one of their own, such as ``!reset``.
    """

    data: Any
    file: str
    lines: dict[Path, int]
    texts: dict[Path, str]
    tags: dict[Path, str] = field(default_factory=dict)

    def source(self, path: Sequence[str | int]) -> str:
        """``file:line`` of the item, or of the nearest around it that exists.

        A name may stand for an index: in a list of names it means the item that is that name.
        """
        data: Any = self.data
        found: Path = ()
        for step in path:
            if isinstance(data, list) and isinstance(step, str) and step in data:
                step = data.index(step)
            if (*found, step) not in self.lines:
                break
            found = (*found, step)
            data = data[step]
        return f"{self.file}:{self.lines[found]}"


def parse(text: str, file: str) -> Located:
    """Read a YAML document with anchors, aliases and merge keys, and none of YAML's object tags.

    Raises:
        ConfigurationError: not YAML, a key twice or not a string, too deep or too large; with the line.
    """
    documents = _documents(text, file, foreign=False)
    if len(documents) > 1:
        raise ConfigurationError("more than one document", source=documents[1].source(()))
    return documents[0] if documents else Located(None, file, {(): 1}, {})


def parse_all(text: str, file: str) -> list[Located]:
    """All documents of a file of another tool, where numbers may be keys, which are taken as they are written, and items may
    have tags of that tool. Raises as ``parse``."""
    return _documents(text, file, foreign=True)


def _documents(text: str, file: str, *, foreign: bool) -> list[Located]:
    loader = yaml.SafeLoader(text)
    found = []
    try:
        while loader.check_node():
            reader = _Reader(loader, file, foreign=foreign)
            if (node := loader.get_node()) is None:
                break
            data = reader.read(node, ())
            found.append(Located(data, file, reader.lines, reader.texts, reader.tags))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigurationError(f"not YAML: {problem}", source=f"{file}:{mark.line + 1}" if mark else file) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"not YAML: {error}", source=file) from error
    finally:
        loader.dispose()
    return found


class _Reader:
    """Walks the node tree once; an alias is walked again wherever it is used, up to the limit."""

    def __init__(self, loader: yaml.SafeLoader, file: str, *, foreign: bool) -> None:
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.tags: dict[Path, str] = {}
        self._loader, self._file, self._items, self._foreign = loader, file, 0, foreign

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._items += 1
        if self._items > _MAX_ITEMS or len(path) > _MAX_DEPTH:
            raise ConfigurationError("too large or too deep", source=self._source(node))
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self._foreign and node.tag.startswith("!"):
            self.tags[path] = node.tag
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        self.texts[path] = node.value
        if path in self.tags:
            return node.value or None
        try:
            return self._loader.construct_object(node)
        except ValueError as error:
            raise ConfigurationError(f"{node.value!r} is not a value: {error}", source=self._source(node)) from error

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: set[str] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode) or not (key.tag == _TEXT or self._foreign):
                raise ConfigurationError("a key must be text; put it in quotes", source=self._source(key))
            if key.value in own:
                raise ConfigurationError(f"the key {key.value!r} is there twice", source=self._source(key))
            own.add(key.value)
        self._loader.flatten_mapping(node)
        # merged keys come first, so that the mapping's own win
        items = {key.value: (key, value) for key, value in node.value}
        for name, (key, _) in items.items():
            self.lines[(*path, name)] = key.start_mark.line + 1
        return {name: self.read(value, (*path, name)) for name, (_, value) in items.items()}

    def _source(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"
