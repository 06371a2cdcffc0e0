"""What each service of a fleet has to be allowed on RabbitMQ, and nothing more. A user is called as its service.

RabbitMQ grants by patterns of names: configure makes and deletes, write publishes to an exchange or binds a queue, read consumes
a queue or binds to an exchange. On topic exchanges it also grants by routing key. What can't be kept apart so, docs/rabbitmq.md
tells.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fabric.contract import ServiceContract
from fabric.coordination.contracts import event_queues
from fabric.coordination.processes import SUPERVISOR
from fabric.transports import topology as keys
from fabric.transports.topology import Topology

_OWN_INBOXES = r"amq\.gen-.*"
_DEFAULT_EXCHANGE = r"amq\.default"
_SPECIAL = frozenset(".*+?()[]{}|^$\\")
_ANY = ".*"
_NOTHING = "^$"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicGrant:
    """Which keys of a topic exchange a user may publish with and bind to; patterns."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The patterns of one user on one virtual host."""

    user: str
    configure: str
    write: str
    read: str
    topics: tuple[TopicGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a user does.

    Attributes:
        user: the service's name.
        queues: patterns of its own durable queues, as ``_pattern`` makes them.
        topics: of the events that it subscribes to; None is any.
        broadcasts: whether it listens to broadcasts.
        capabilities: that it offers.
        serves: whether it is called, commanded and votes. False only calls and publishes.
        also: other names under which it is found and called.
        leads: whether it commands all, reads all votes, and makes the exchanges.
        heals: whether it reads all dead letters and puts them back.
        delays: whether it publishes events with a delay. They wait in queues that all such users make, read and may delete.
    """

    user: str
    queues: tuple[str, ...] = ()
    topics: tuple[str, ...] | None = ()
    broadcasts: bool = False
    capabilities: tuple[str, ...] = ()
    serves: bool = True
    also: tuple[str, ...] = ()
    leads: bool = False
    heals: bool = False
    delays: bool = True


COORDINATOR = Role(user="coordinator", broadcasts=True, leads=True, also=(SUPERVISOR,))
"""``fabric up`` gives the coordinator the broker's URL that it uses itself, so both are this user."""
COMMAND_LINE = Role(user="fabric-cli", broadcasts=True, serves=False, heals=True)


def _literal(text: str) -> str:
    """``text`` as a pattern that matches it alone, in Erlang's regular expressions and unquoted in a shell's single quotes."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def _pattern(alternatives: Iterable[str]) -> str:
    """Matches the whole of any of them, each a pattern."""
    unique = list(dict.fromkeys(alternatives))
    return f"^({'|'.join(unique)})$" if unique else _NOTHING


def _each(prefix: str, names: Iterable[str]) -> list[str]:
    return [_literal(f"{prefix}{name}") for name in names]


def role_of(service: str, contract: ServiceContract | None, topology: Topology, *, capabilities: Iterable[str] = ()) -> Role:
    """Of one service. Of an unknown contract it is what any service might need, of its own.

    Args:
        capabilities: those of the fleet file; the contract's own come to them.
    """
    own = _literal(f"{topology.events}.{service}.") + _ANY
    if contract is None:
        return Role(user=service, queues=(own,), topics=None, broadcasts=True, capabilities=tuple(capabilities))
    queues = event_queues(contract, topology)
    return Role(
        user=service,
        queues=(own,) if queues else (),
        topics=tuple(dict.fromkeys(key for queue in queues for key in queue.keys)),
        broadcasts=bool(contract.broadcasts),
        capabilities=tuple(dict.fromkeys((*capabilities, *contract.capabilities))),
    )


def grant(role: Role, topology: Topology) -> Grant:
    """The patterns for one user."""
    inboxes = [_OWN_INBOXES, *role.queues]
    # a hub looks whether all exchanges are there, which takes some right on each; what goes by control, its keys say
    targets = [topology.rpc, topology.events, topology.broadcast, topology.control, topology.discovery]
    sources = [topology.rpc, topology.discovery]
    if role.queues or role.delays:
        sources.append(topology.events)
    if role.broadcasts:
        sources.append(topology.broadcast)
    if role.serves:
        sources.append(topology.control)
    configure, write, read = list(inboxes), inboxes + _each("", targets), inboxes + _each("", sources)
    if role.queues or role.heals:  # what failed goes from queue to queue through it
        write.append(_DEFAULT_EXCHANGE)
    if role.heals:
        read.append(_literal(f"{topology.events}.") + _ANY + _literal(".dead"))
    if role.delays:
        held = rf"{_literal(topology.namespace)}\.delayed\.(sink|[0-9]+)"
        configure.append(held)
        write.append(held)
        read.append(held)
    if role.leads:
        configure += _each("", (spec.name for spec in topology.exchanges))
        journal = _literal(topology.journal)
        configure.append(journal)
        write.append(journal)
        read.append(journal)
    return Grant(
        user=role.user,
        configure=_pattern(configure),
        write=_pattern(write),
        read=_pattern(read),
        topics=(_events(role, topology), _control(role, topology), _discovery(role, topology)),
    )


def _events(role: Role, topology: Topology) -> TopicGrant:
    """A contract does not say what a service publishes, so it may publish any event."""
    sink = (topology.delayed_sink_key,) if role.delays else ()
    read = _ANY if role.topics is None else _pattern(_each("", (*role.topics, *sink)))
    return TopicGrant(exchange=topology.events, write=_ANY, read=read)


def _control(role: Role, topology: Topology) -> TopicGrant:
    write = [_literal(keys.vote(role.user))] if role.serves else []
    read = [_literal(keys.command(role.user))] if role.serves else []
    if role.leads:
        write += [_literal(keys.command("")) + _ANY, keys.JOURNAL]
        read += [_literal(keys.EVERY_VOTE), keys.JOURNAL]
    return TopicGrant(exchange=topology.control, write=_pattern(write), read=_pattern(read))


def _discovery(role: Role, topology: Topology) -> TopicGrant:
    """Everybody may look for anybody, and be found only as what it is."""
    write = [_literal(keys.who_service("")) + _ANY, _literal(keys.who_capability("")) + _ANY, _literal(keys.WHO_EVERYONE)]
    read = [_literal(keys.up_service("")) + _ANY, _literal(keys.up_capability("")) + _ANY]
    if role.serves:
        names = (role.user, *role.also)
        write += [_literal(key) for key in (*map(keys.up_service, names), *map(keys.up_capability, role.capabilities))]
        read += [_literal(key) for key in (*map(keys.who_service, names), *map(keys.who_capability, role.capabilities))]
        read.append(_literal(keys.WHO_EVERYONE))
    return TopicGrant(exchange=topology.discovery, write=_pattern(write), read=_pattern(read))


def grants(
    contracts: Mapping[str, ServiceContract | None],
    topology: Topology,
    *,
    capabilities: Mapping[str, Iterable[str]],
    clients: Iterable[str] = (),
    delays: bool = True,
) -> list[Grant]:
    """Of every service, the coordinator, the command line, and ``clients``: users that call and publish and serve nothing.

    Args:
        delays: whether they may publish events with a delay; see ``Role``.
    """
    services = [
        role_of(name, contract, topology, capabilities=capabilities.get(name, ())) for name, contract in contracts.items()
    ]
    others = (COORDINATOR, COMMAND_LINE, *(Role(user=name, serves=False) for name in clients))
    return [grant(replace(role, delays=delays), topology) for role in (*services, *others)]


def definitions(found: Iterable[Grant], topology: Topology, vhost: str) -> dict[str, Any]:
    """As RabbitMQ imports it. The users must be there already; the exchanges come with it."""
    listed = list(found)
    return {
        "exchanges": [
            {
                "name": spec.name,
                "vhost": vhost,
                "type": spec.kind.value,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for spec in topology.exchanges
        ],
        "permissions": [
            {"user": each.user, "vhost": vhost, "configure": each.configure, "write": each.write, "read": each.read}
            for each in listed
        ],
        "topic_permissions": [
            {"user": each.user, "vhost": vhost, "exchange": topic.exchange, "write": topic.write, "read": topic.read}
            for each in listed
            for topic in each.topics
        ],
    }


def commands(found: Iterable[Grant], vhost: str, *, add_users: bool) -> list[str]:
    """The same for a shell. Passwords come from the environment, by standard input, so that no list of processes shows them."""
    lines = []
    for each in found:
        if add_users:
            password = f'"${{{password_variable(each.user)}:?}}"'
            lines.append(f"printf '%s\\n' {password} | rabbitmqctl add_user {shlex.quote(each.user)}")
        lines.append(_rabbitmqctl("set_permissions", "-p", vhost, each.user, each.configure, each.write, each.read))
        lines += [
            _rabbitmqctl("set_topic_permissions", "-p", vhost, each.user, topic.exchange, topic.write, topic.read)
            for topic in each.topics
        ]
    return lines


def _rabbitmqctl(*arguments: str) -> str:
    return shlex.join(("rabbitmqctl", *arguments))


def password_variable(user: str) -> str:
    """``FABRIC_PASSWORD_EMAIL_SERVICE`` for ``email-service``."""
    return "FABRIC_PASSWORD_" + "".join(char.upper() if char.isalnum() else "_" for char in user)
