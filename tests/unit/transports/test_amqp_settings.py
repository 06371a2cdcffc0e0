from __future__ import annotations

from pathlib import Path

import pytest

from fabric.errors import ConfigurationError, UnknownName
from fabric.transports.amqp_settings import AmqpSettings


def test_a_whole_url() -> None:
    """Every part of a URL is read, with percent signs decoded."""
    settings = AmqpSettings.from_url(
        "amqps://us%40er:p%2Fw@broker.example:5999/v%2Fhost?heartbeat=30&cacertfile=/ca.pem", name="x"
    )
    assert (settings.user, settings.secret(), settings.host, settings.port) == ("us@er", "p/w", "broker.example", 5999)
    assert (settings.vhost, settings.heartbeat, settings.name) == ("v/host", 30, "x")
    assert settings.tls is not None
    assert (settings.tls.ca_file, settings.tls.verify) == ("/ca.pem", True)


@pytest.mark.parametrize(
    ("url", "port", "vhost"),
    [
        ("amqp://h", 5672, "/"),
        ("amqp://h/", 5672, "/"),
        ("amqps://h/%2F", 5671, "/"),
        ("amqp://[::1]:7/x", 7, "x"),
    ],
)
def test_what_a_url_leaves_out(url: str, port: int, vhost: str) -> None:
    """Port and virtual host have RabbitMQ's defaults."""
    settings = AmqpSettings.from_url(url)
    assert (settings.port, settings.vhost, settings.user) == (port, vhost, "guest")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@h",
        "user:hunter2@h",
        "amqp://user:hunter2@h:port/",
        "amqp://user:hunter2@h:99999/",
        "amqp://user:hunter2@h/?heartbeat=soon",
        "amqp://user:hunter2@h/?verify=maybe",
        "amqps://user:hunter2@h/?verify=maybe",
        "amqp://user:hunter2@h/?auth_mechanism=magic",
        "amqp://user:hunter2@h/?heart=1",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    """Each mistake is named, and no message repeats the password."""
    with pytest.raises(ConfigurationError) as caught:
        AmqpSettings.from_url(url)
    assert "hunter2" not in str(caught.value)


def test_a_mistyped_option_is_named() -> None:
    """An unknown option is answered with the one that was meant."""
    with pytest.raises(UnknownName, match="did you mean 'cacertfile'"):
        AmqpSettings.from_url("amqps://h/?cacertfil=x")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither repr nor ``where`` shows the password; one from a file is read when it is needed."""
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    settings = AmqpSettings.from_url(f"amqp://user:hunter3@h/?password_file={file}")
    assert settings.secret() == "hunter2"
    assert "hunter" not in repr(settings) + settings.where
    assert settings.where == "amqp://user@h:5672/"
    file.unlink()
    with pytest.raises(ConfigurationError, match="password_file"):
        settings.secret()


def test_the_name_of_a_certificate_is_not_ours_to_claim() -> None:
    """With ``auth_mechanism=external`` the URL says the name of the certificate too, which the broker vouches for."""
    with pytest.raises(ConfigurationError, match="amqps://NAME@host"):
        AmqpSettings.from_url("amqps://h/?auth_mechanism=external")
    assert AmqpSettings.from_url("amqps://mailer@h/?auth_mechanism=external").vouched_user == "mailer"
    assert AmqpSettings.from_url("amqps://user@h").vouched_user == "user"


@pytest.mark.parametrize(
    "field", ["max_body", "ping_interval", "ping_timeout", "operation_timeout", "max_waiting", "post_buffer"]
)
def test_limits_are_positive(field: str) -> None:
    """A limit of nothing is refused by its name."""
    with pytest.raises(ConfigurationError, match=field):
        AmqpSettings(**{field: 0})  # type: ignore[arg-type]
