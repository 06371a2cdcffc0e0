"""Settings come from the environment, are checked, and keep their secret."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from fabric.config import Settings
from fabric.errors import ConfigurationError
from fabric.routing.instance import Instance
from fabric.transports.topology import Topology
from tests.unit.routing.instances import instance


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FABRIC_{name.upper()}", raising=False)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting has a variable FABRIC_..., and what code says goes before it."""
    monkeypatch.setenv("FABRIC_BROKER_URL", "amqp://user:secret@broker/")
    monkeypatch.setenv("FABRIC_NAMESPACE", "shop")
    monkeypatch.setenv("FABRIC_CALL_TIMEOUT", "2.5")
    monkeypatch.setenv("FABRIC_LOST_AFTER", "5")
    settings = Settings(lost_after=7)
    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == "amqp://user:secret@broker/"
    assert (settings.namespace, settings.call_timeout, settings.lost_after) == ("shop", 2.5, 7)


def test_the_url_is_a_secret() -> None:
    """Neither repr nor str, dump as text nor an error shows the password."""
    settings = Settings(broker_url=SecretStr("amqp://user:hunter2@broker/"))
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "hunter2" not in shown
    with pytest.raises(ConfigurationError) as refused:
        Settings(broker_url=["amqp://user:hunter2@broker/"], namespace="hunter2!")  # type: ignore[arg-type]
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("call_timeout", "30s"), ("call_timeout", "0"), ("call_timeout", "-1"), ("call_timeout", "nan"), ("call_timeout", "1e9"),
        ("connect_timeout", "inf"), ("connect_timeout", "nan"), ("connect_timeout", "0"), ("heartbeat_interval", "inf"),
        ("heartbeat_interval", "0"), ("drain_timeout", "-0.1"), ("drain_timeout", "inf"), ("lost_after", "0"),
        ("lost_after", "1.5"), ("weight", "0"), ("weight", "1001"), ("max_message_bytes", "1023"), ("max_batch_bytes", "x"),
        ("namespace", ""), ("namespace", "a.b"), ("namespace", "*"), ("namespace", "ä"), ("namespace", "-a"),
        ("namespace", "a" * 101), ("namespace", "a\n"), ("instance", "i" * 201), ("instance", "ü" * 101),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_their_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value is a ConfigurationError that names the variable, so that whoever deployed it finds it."""
    monkeypatch.setenv(f"FABRIC_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=f"FABRIC_{name.upper()}: "):
        Settings()


def test_policies_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """FABRIC_POLICIES is a JSON object; empty is none."""
    monkeypatch.setenv("FABRIC_POLICIES", '{"default": {"balancing": "p2c"}}')
    assert Settings().policies == {"default": {"balancing": "p2c"}}
    monkeypatch.setenv("FABRIC_POLICIES", " ")
    assert Settings().policies is None


@pytest.mark.parametrize("text", ["p2c", "{default: p2c}", '{"default": ', "[1, 2]", "7", '"p2c"', "\udcff"])
def test_policies_that_are_no_json_object(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Whatever is not one is refused by the variable's name, together with what else is wrong."""
    monkeypatch.setenv("FABRIC_POLICIES", text)
    with pytest.raises(ConfigurationError, match=r"FABRIC_POLICIES: .*FABRIC_WEIGHT: |FABRIC_WEIGHT: .*FABRIC_POLICIES: "):
        Settings(weight=0)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start three times to learn of three mistakes."""
    monkeypatch.setenv("FABRIC_WEIGHT", "heavy")
    monkeypatch.setenv("FABRIC_LOST_AFTER", "never")
    with pytest.raises(ConfigurationError) as refused:
        Settings(namespace="a.b")
    assert all(f"FABRIC_{name}: " in str(refused.value) for name in ("WEIGHT", "LOST_AFTER", "NAMESPACE"))


def test_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of other tools with the same prefix are no mistake."""
    monkeypatch.setenv("FABRIC_SOMETHING_ELSE", "x")
    assert Settings() == Settings()


def test_settings_do_not_change() -> None:
    """Everybody who was handed the settings sees the same ones for ever."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.weight = 2
    assert pickle.loads(pickle.dumps(settings)) == settings


@given(st.text(max_size=6) | st.text(max_size=120) | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", fullmatch=True))
@example("a\n")
@example("٣")
def test_a_namespace_that_passes_makes_a_topology(name: str) -> None:
    """What the settings accept as a namespace is exactly what the names on the broker can be made of."""

    def accepted(make: Any) -> bool:
        try:
            make()
        except (ValueError, ConfigurationError):
            return False
        return True

    assert accepted(lambda: Settings(namespace=name)) == accepted(lambda: Topology(name))


def test_instance_ids() -> None:
    """The configured id is used as it is; otherwise each process makes up its own, and both can be announced."""
    assert Settings(instance="email-7").instance_for("email") == "email-7"
    made = {Settings().instance_for("e" * 100) for _ in range(1000)}
    assert len(made) == 1000
    for id in (*list(made)[:3], "i" * 200):
        assert Instance.from_plain(instance(id).to_plain()).id == id


def test_times_are_finite() -> None:
    """M8 (MassTransit#3502): no setting can make anybody wait for ever."""
    settings = Settings()
    for name, field in Settings.model_fields.items():
        if field.annotation is float:
            assert math.isfinite(getattr(settings, name))
            with pytest.raises(ConfigurationError):
                Settings.model_validate({name: math.inf})
