"""What failed handshakes mean."""

from __future__ import annotations

import ssl

import pytest

from fabric.errors import ConfigurationError, ConnectionLost
from fabric.transports.amqp_errors import translate
from fabric.transports.amqp_tls import meaning_of

VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (f"{VERIFY}: self-signed certificate in certificate chain (_ssl.c:1006)", "cacertfile=FILE"),
        (f"{VERIFY}: unable to get local issuer certificate (_ssl.c:1006)", "cacertfile=FILE"),
        (f"{VERIFY}: Hostname mismatch, certificate is not valid for 'mq'. (_ssl.c:1006)", "server_name_indication"),
        (f"{VERIFY}: IP address mismatch, certificate is not valid for '::1'. (_ssl.c:1006)", "server_name_indication"),
        (f"{VERIFY}: certificate has expired (_ssl.c:1006)", "renewed"),
        (f"{VERIFY}: certificate is not yet valid (_ssl.c:1006)", "clock"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)", "certfile=FILE"),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure (_ssl.c:1000)", "certfile=FILE"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:2580)", "does not trust our certificate"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired (_ssl.c:2580)", "expired"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "5671"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1006)", "1.2 or 1.3"),
    ],
)
def test_each_says_what_to_do(said: str, advice: str) -> None:
    """A handshake that can't succeed as things are is refused for good, with what to do and what OpenSSL said."""
    assert advice in meaning_of(said)
    error = translate(OSError(1, said), doing="connecting to mq")
    assert type(error) is ConfigurationError
    assert said in str(error)
    lost = translate(RuntimeError("the reader ended"), doing="connecting to mq", reason=said)
    assert type(lost) is ConfigurationError, "TLS 1.3 tells only after the handshake, when the link is lost"


def test_what_is_not_of_tls() -> None:
    """Other failures, and TLS links that merely break, are tried again."""
    assert meaning_of("[Errno 111] Connect call failed") == ""
    for text in ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", "[SSL] record"):
        assert meaning_of(text) == ""
        assert type(translate(ssl.SSLError(1, text), doing="connecting")) is ConnectionLost
