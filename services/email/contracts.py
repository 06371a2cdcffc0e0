"""What is said to the e-mail service."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.template.contracts import TemplateName

Address = Annotated[str, StringConstraints(pattern=r"^[^@\s<>,;\"]{1,64}@[A-Za-z0-9.\-]{1,190}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class EmailRequest(BaseModel):
    """One e-mail: either ``text`` with a ``subject``, or a ``template`` with ``values``.

    Attributes:
        key: names the e-mail; whatever comes again with the same key is not sent again.
    """

    model_config = ConfigDict(frozen=True)

    key: Key
    to: Address
    subject: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\r\n]*$")] = ""
    text: Annotated[str, StringConstraints(max_length=256 * 1024)] = ""
    template: TemplateName | None = None
    values: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.template is None) == (not self.text):
            raise ValueError("give either text or a template")
        return self


class EmailReceipt(BaseModel):
    """That an e-mail was handed over.

    Attributes:
        id: its Message-ID.
        via: ``smtp``, or ``outbox`` for a file in a directory.
        rendered_by: what made its text: ``request``, ``template-service`` or, without that, ``email-service``.
        repeated: it had been sent before under this key; the rest is of then.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    id: str
    to: str
    subject: str
    via: str
    rendered_by: str
    at: AwareDatetime
    repeated: bool = False
