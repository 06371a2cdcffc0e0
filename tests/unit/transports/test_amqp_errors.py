from __future__ import annotations

import inspect
from types import ModuleType

import aio_pika.exceptions
import aiormq.exceptions
import pamqp.exceptions
import pytest

from fabric.errors import ConfigurationError, ConnectionLost, TopologyConflict
from fabric.transports.amqp_errors import explain, meaning, translate


def errors_of(module: ModuleType) -> list[type[BaseException]]:
    return [member for _, member in inspect.getmembers(module, inspect.isclass) if issubclass(member, BaseException)]


@pytest.mark.parametrize("module", [aiormq.exceptions, aio_pika.exceptions, pamqp.exceptions], ids=lambda module: module.__name__)
def test_no_error_of_the_libraries_is_left_out(module: ModuleType) -> None:
    """Every exception that the three libraries define has a meaning."""
    kinds = errors_of(module)
    assert len(kinds) > 5
    for kind in kinds:
        assert meaning(kind.__new__(kind)) is not None, kind


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (aiormq.exceptions.AMQPConnectionError("gone"), ConnectionLost),
        (aiormq.exceptions.ChannelInvalidStateError("closed"), ConnectionLost),
        (aiormq.exceptions.ChannelLockedResource("held elsewhere"), ConnectionLost),
        (aiormq.exceptions.ProbableAuthenticationError("no"), ConfigurationError),
        (aiormq.exceptions.ChannelAccessRefused("no"), ConfigurationError),
        (aiormq.exceptions.ConnectionNotAllowed("no such vhost"), ConfigurationError),
        (aiormq.exceptions.ChannelPreconditionFailed("inequivalent arg"), TopologyConflict),
        (ConnectionRefusedError(111, "refused"), ConnectionLost),
        (TimeoutError(), ConnectionLost),
    ],
)
def test_what_each_becomes(error: BaseException, becomes: type[Exception]) -> None:
    """The outcome says whether trying again helps."""
    assert type(translate(error, doing="declaring", name="q")) is becomes


def test_a_refusal_by_code() -> None:
    """The broker's code at closing counts where aiormq saw only an unexpected frame."""
    error = aiormq.exceptions.InvalidFrameError("Expected Connection.OpenOk")
    assert (
        type(translate(error, doing="connecting", code=530, reason="530 NOT_ALLOWED - vhost x not found")) is ConfigurationError
    )


def test_no_text_holds_a_password() -> None:
    """A URL inside an error is shown without its password."""
    assert explain(OSError("can't reach amqp://user:hunter2@host:5672/")) == "can't reach amqp://user:***@host:5672/"
