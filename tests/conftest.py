"""The broker of the tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.brokers.cluster import Cluster, start_cluster
from tests.brokers.find import start_broker
from tests.brokers.node import BrokerNode, BrokerUnavailable
from tests.contract.backend_amqp import AmqpBackend, open_on


def _do_without(error: BrokerUnavailable) -> NoReturn:
    """Skipped with the reason, and in CI a failure."""
    if os.environ.get("CI"):
        pytest.fail(str(error))
    pytest.skip(str(error))


# A suite that is green for one is green for all: the examples are the same in every run. `--hypothesis-profile=search` looks
# for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerNode]:
    """A RabbitMQ node for this test process. Where it is ours (``broker.ours``) no other process uses it, so that a test may
    harm it as long as it heals it again. Without one: skipped with the reason, and in CI a failure."""
    try:
        node = start_broker()
    except BrokerUnavailable as error:
        _do_without(error)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session")
def private_broker(broker: BrokerNode) -> BrokerNode:
    """The same where it may be harmed; otherwise the test is skipped."""
    if not broker.ours:
        pytest.skip("the broker of FABRIC_TEST_BROKER_URL is not ours to harm")
    return broker


@pytest.fixture
async def amqp(broker: BrokerNode) -> AsyncIterator[AmqpBackend]:
    """Transports on RabbitMQ, under a namespace of this test's own."""
    async with open_on(broker) as backend:
        yield backend


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three RabbitMQ nodes that are one cluster, for this test process alone. It takes half a minute to start."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(start_cluster())
        except BrokerUnavailable as error:
            _do_without(error)
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who asks for the broker is marked as needing one."""
    for item in items:
        if {"broker", "private_broker", "amqp", "cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
