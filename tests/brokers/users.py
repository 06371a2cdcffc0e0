"""Users of a broker of the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.brokers.node import BrokerNode

PASSWORD = "only for tests"


def url_of(node: BrokerNode, user: str) -> str:
    """The node's URL for ``user``."""
    parts = urlsplit(node.url)
    password = PASSWORD.replace(" ", "%20")
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}">>'


def add_users(node: BrokerNode, users: Mapping[str, tuple[str, str, str]], *, tags: str = "") -> None:
    """Each with its patterns for configure, write and read; one command for all, as each takes seconds."""
    steps = []
    for user, patterns in users.items():
        name = _text(user)
        steps.append(f"ok = rabbit_auth_backend_internal:add_user({name}, {_text(PASSWORD)}, {_text('test')})")
        steps.append(f"rabbit_auth_backend_internal:set_tags({name}, [{tags}], {_text('test')})")
        rights = ", ".join(_text(pattern) for pattern in patterns)
        steps.append(f"rabbit_auth_backend_internal:set_permissions({name}, {_text('/')}, {rights}, {_text('test')})")
    node.ctl("eval", ", ".join(steps) + ".")


def delete_users(node: BrokerNode, users: Mapping[str, object]) -> None:
    steps = [f"catch rabbit_auth_backend_internal:delete_user({_text(user)}, {_text('test')})" for user in users]
    node.ctl("eval", ", ".join(steps) + ".")


def import_definitions(node: BrokerNode, definitions: Mapping[str, Any]) -> None:
    """As ``rabbitmqctl import_definitions`` does, which would want a file where the node is."""
    node.ctl("eval", f"ok = rabbit_definitions:import_raw({_text(json.dumps(definitions))}).")


@contextmanager
def users(node: BrokerNode, users: Mapping[str, tuple[str, str, str]], *, tags: str = "") -> Iterator[None]:
    """There while the context lasts. Do not enter it in an event loop: it blocks."""
    add_users(node, users, tags=tags)
    try:
        yield
    finally:
        delete_users(node, users)
