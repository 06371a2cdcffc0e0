"""Which journal belongs to which broker."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from fabric.config import Settings
from fabric.coordination.journal import Journal
from fabric.coordination.journal_memory import MemoryJournal
from fabric.errors import ConfigurationError, TopologyConflict
from fabric.transports import topology as keys
from fabric.transports.topology import Topology

_log = logging.getLogger("fabric.coordinator")

JOURNAL = "FABRIC_JOURNAL"
"""The path of a journal in place of the broker's own: a file on this machine, for SQLite."""


def journal_for(settings: Settings, topology: Topology) -> Journal:
    """On RabbitMQ a stream, beside the socket of the embedded broker a file, otherwise one in memory.

    The file beside a socket tells of one run of that broker: a fleet that is started afresh has nothing to take over.
    """
    if path := os.environ.get(JOURNAL):
        from fabric.coordination.journal_sqlite import SqliteJournal

        return SqliteJournal(Path(path))
    url = settings.broker() or ""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        from fabric.coordination.journal_sqlite import SqliteJournal

        socket = Path(parts.path)
        return SqliteJournal(socket.with_name(topology.journal), life=_life(socket))
    if parts.scheme in ("amqp", "amqps"):
        from fabric.coordination.journal_stream import StreamJournal
        from fabric.transports.amqp_settings import AmqpSettings

        # By the control exchange: who may only vote there can't claim to lead.
        settings_of = AmqpSettings.from_url(url)
        return StreamJournal(settings_of, topology.journal, exchange=topology.control, key=keys.JOURNAL)
    return MemoryJournal()


async def open_journal(journal: Journal) -> Journal:
    """``journal``, open; or one in memory where the broker's can't be had: a fleet must not stay down because of it.

    Raises:
        ConnectionLost: the broker is not reached.
    """
    try:
        await journal.open()
    except (ConfigurationError, TopologyConflict) as error:
        _log.error("no journal, so that a successor of this coordinator will know nothing of its runs: %s", error)
        await journal.aclose()
        return MemoryJournal()
    return journal


def _life(socket: Path) -> str:
    """A broker that is started again makes its socket anew."""
    try:
        made = socket.stat()
    except OSError:
        return ""
    return f"{made.st_ino}-{made.st_ctime_ns}"
