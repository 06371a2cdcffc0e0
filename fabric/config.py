"""Settings of a process, from the environment (prefix ``FABRIC_``) or from code."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
from pydantic import Field, ModelWrapValidatorHandler, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fabric.broker_url import read
from fabric.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,99}")

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseSettings):
    """What every hub needs to know.

    Attributes:
        broker_url: ``amqp://``, ``amqps://`` or ``unix:///path`` of an embedded broker. Secret, for it may hold a password.
        broker_url_file: a file that holds it; read in place of ``broker_url``, when a transport is made.
        namespace: prefix of all names on the broker; fleets with different ones don't see each other.
        instance: the id of this process, at most 200 bytes; made from the service's name and random bits when empty.
        zone: where it runs, for callers that prefer near instances.
        weight: its share under weighted balancing, against the others' weights.
        call_timeout: seconds that a call may take when neither the caller nor the method says.
        connect_timeout: seconds to reach the broker at first.
        heartbeat_interval: seconds between announcements. Shorter finds changes of load sooner and costs traffic.
        lost_after: announcements missed before an instance is checked and, if it is gone, dropped.
        drain_timeout: seconds that running handlers may take at shutdown.
        max_message_bytes: of one encoded message. RabbitMQ 4 refuses more than 16 MiB.
        max_batch_bytes: of messages that travel together. More amortises better and delays what comes behind.
        policies: how calls to each service are treated, as JSON in the environment; see ``Policies.from_plain``.
        policies_from: the service that hands out policies, which then go over these; empty: none does.

    Raises:
        ConfigurationError: a value is wrong; it is named as in the environment, and not repeated.
    """

    model_config = SettingsConfigDict(env_prefix="FABRIC_", frozen=True, extra="ignore")

    broker_url: SecretStr | None = None
    broker_url_file: Path | None = None
    namespace: str = "fabric"
    instance: str = ""
    zone: str = ""
    host: str = Field(default_factory=socket.gethostname)
    weight: int = Field(default=1, ge=1, le=1000)
    call_timeout: Seconds = Field(default=30.0, gt=0, le=86_400)
    connect_timeout: Seconds = Field(default=30.0, gt=0)
    heartbeat_interval: Seconds = Field(default=2.0, gt=0)
    lost_after: int = Field(default=3, ge=1)
    drain_timeout: Seconds = Field(default=10.0, ge=0)
    max_message_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    max_batch_bytes: int = Field(default=128 * 1024, ge=1024)
    policies: Annotated[dict[str, Any] | None, NoDecode] = None
    policies_from: str = ""

    @field_validator("broker_url_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("policies", mode="before")
    @classmethod
    def _of_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value) if value.strip() else None
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None

    @field_validator("namespace")
    @classmethod
    def _usable(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("use 1 to 100 letters, digits, '-' and '_', beginning with a letter or digit")
        return value

    @field_validator("instance")
    @classmethod
    def _fits_a_key(cls, value: str) -> str:
        if len(value.encode(errors="replace")) > 200:
            raise ValueError("use at most 200 bytes")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            wrong = "; ".join(
                f"FABRIC_{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
            )
            raise ConfigurationError(f"wrong settings: {wrong}") from None

    def broker(self) -> str | None:
        """The broker's URL, from wherever it is given.

        Raises:
            ConfigurationError: its file can't be read.
        """
        if self.broker_url_file is not None:
            return read(self.broker_url_file)
        return None if self.broker_url is None else self.broker_url.get_secret_value()

    def instance_for(self, service: str) -> str:
        """The configured instance id, or a new one."""
        return self.instance or f"{service}-{os.urandom(4).hex()}"
