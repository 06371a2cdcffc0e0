"""What a service offers is read from its class."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fabric.contract import contract_of, on_broadcast, on_event, rpc
from fabric.errors import ConfigurationError
from tests.unit.samples import Plain


async def handler(self: object, event: Plain) -> None: ...


class EmailService:
    name, version = "email-service", "1.2.0"
    capabilities = ("email-sending",)

    @rpc(idempotent=True, timeout=5.0, concurrency=50, aliases=("sendEmail",))
    async def send_email(self, request: Plain) -> Plain:
        return request

    @rpc(name="list", callers=["checkout"])
    async def list_all(self) -> list[Plain]:
        return []

    @rpc()
    async def tail(self, lines: int = 10) -> AsyncIterator[str]:
        yield ""

    @on_event("todo.created", "todo.*.done", group="mail", concurrency=3)
    async def welcome(self, event: Plain) -> None: ...

    @on_event("user.#")
    async def user(self, event: Any) -> None: ...

    @on_broadcast("policy.changed")
    async def policy(self, event: dict[str, Any]) -> None: ...

    async def not_offered(self, x: int) -> None: ...

    @property
    def trap(self) -> int:
        raise AssertionError("reading a contract must not run properties")


class TestServices:
    """The contract of a class."""

    def test_everything_marked_is_found(self) -> None:
        """Methods by name and alias, handlers by group, broadcasts; nothing that is not marked."""
        contract = contract_of(EmailService)
        assert (contract.name, contract.version, contract.capabilities) == ("email-service", "1.2.0", ("email-sending",))
        assert set(contract.methods) == {"send_email", "sendEmail", "list", "tail"}
        assert contract.methods["sendEmail"] is contract.methods["send_email"]
        assert contract.methods["list"].attribute == "list_all"
        assert contract.methods["list"].options.callers == ("checkout",)
        assert contract.methods["send_email"].returns is Plain
        assert contract.methods["tail"].streams
        assert not contract.methods["list"].streams
        assert {group: [h.attribute for h in handlers] for group, handlers in contract.groups.items()} == {
            "mail": ["welcome"],
            "default": ["user"],
        }
        assert contract.groups["mail"][0].patterns == ("todo.created", "todo.*.done")
        assert [(h.attribute, h.patterns) for h in contract.broadcasts] == [("policy", ("policy.changed",))]

    def test_it_is_read_once_for_each_class(self) -> None:
        """The contract is kept on the class; a subclass has its own, with what it inherits."""

        class Sub(EmailService):
            name = "sub-service"

            @rpc()
            async def more(self) -> None: ...

        assert contract_of(EmailService) is contract_of(EmailService)
        assert contract_of(Sub) is not contract_of(EmailService)
        assert contract_of(Sub).name == "sub-service"
        assert set(contract_of(Sub).methods) == {*contract_of(EmailService).methods, "more"}

    def test_two_methods_of_one_name(self) -> None:
        """A name can mean one method only, aliases included."""

        class Twice:
            @rpc(aliases=("two",))
            async def one(self) -> None: ...

            @rpc()
            async def two(self) -> None: ...

        with pytest.raises(ConfigurationError, match="two methods are called 'two'"):
            contract_of(Twice)

    def test_static_and_class_methods(self) -> None:
        """They would lose their first argument; refused by name instead of silently left out."""

        class Static:
            @staticmethod
            @rpc()
            async def method(text: str) -> None: ...

        class Klass:
            @classmethod
            @rpc()
            async def method(cls, text: str) -> None: ...

        for service in (Static, Klass):
            with pytest.raises(ConfigurationError, match=r"method: only ordinary methods"):
                contract_of(service)

    def test_a_string_in_place_of_a_tuple(self) -> None:
        """capabilities, aliases and callers of one string would be its letters; refused with the right spelling."""

        class Service:
            capabilities = "text"

        with pytest.raises(ConfigurationError, match=r"\('text',\) in place of 'text'"):
            contract_of(Service)
        for wrong in ({"aliases": "sendEmail"}, {"callers": "checkout"}):
            with pytest.raises(ConfigurationError, match="is a list of names"):
                rpc(**wrong)  # type: ignore[arg-type]

    def test_handlers_of_one_group_must_agree(self) -> None:
        """They share a queue, whose limits can't be two."""

        class Two:
            @on_event("a", max_attempts=2)
            async def one(self, event: Any) -> None: ...

            @on_event("b", max_attempts=3)
            async def two(self, event: Any) -> None: ...

        with pytest.raises(ConfigurationError, match="give one of them another group"):
            contract_of(Two)

    def test_only_async_functions(self) -> None:
        """A blocking handler would stop the whole process."""

        def blocking(self: object) -> None: ...

        for mark in (rpc(), on_event("a"), on_broadcast("a")):
            with pytest.raises(ConfigurationError, match="blocking must be an async function"):
                mark(blocking)

    def test_forgotten_parentheses(self) -> None:
        """@on_event and @on_broadcast without topics would offer nothing in silence."""
        with pytest.raises(ConfigurationError, match=r'@on_event\("todo.created"\)'):
            on_event(handler)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="on_broadcast needs at least one topic"):
            on_broadcast(handler)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            rpc(handler)  # type: ignore[call-arg,arg-type]

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"timeout": float("inf")},
            {"concurrency": 0}, {"queue": -1},
        ],
    )  # fmt: skip
    def test_options_of_a_method(self, options: dict[str, Any]) -> None:
        """Limits that nothing could meet, or that are none, are refused."""
        with pytest.raises(ConfigurationError):
            rpc(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"concurrency": 0}, {"concurrency": 65_536}, {"max_attempts": 0}, {"retry_delays": ()}, {"retry_delays": (-1.0,)},
            {"retry_delays": (float("nan"),)}, {"timeout": 0}, {"timeout": 1800.0}, {"unique_for": -1.0}, {"group": "a.b"},
            {"group": ""}, {"group": "a" * 101},
        ],
    )  # fmt: skip
    def test_options_of_an_event_handler(self, options: dict[str, Any]) -> None:
        """The same for handlers; a group is part of a queue's name and has the letters of a name."""
        with pytest.raises(ConfigurationError):
            on_event("a", **options)

    @pytest.mark.parametrize("topics", [(), ("",), ("a", ""), (None,), (1,)])
    def test_topics(self, topics: tuple[Any, ...]) -> None:
        """A handler without a topic would never run."""
        for mark in (on_event, on_broadcast):
            with pytest.raises(ConfigurationError, match="needs at least one topic"):
                mark(*topics)
