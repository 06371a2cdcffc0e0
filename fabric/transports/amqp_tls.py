"""What a failed TLS handshake means, and what to do about it."""

from __future__ import annotations

_MEANINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hostname mismatch", "IP address mismatch"),
        "the broker's certificate is for another name: use its name in the URL, or say it with server_name_indication=NAME",
    ),
    (
        ("certificate has expired",),
        "the broker's certificate has expired: have it renewed; if it has not, this machine's clock is wrong",
    ),
    (("certificate is not yet valid",), "the broker's certificate is not valid yet: is this machine's clock right?"),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "nobody whom we trust has signed the broker's certificate: name the authority that has with cacertfile=FILE",
    ),
    (
        ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE"),
        "the broker wants a certificate of ours: give it one with certfile=FILE and keyfile=FILE",
    ),
    (
        ("ALERT_CERTIFICATE_EXPIRED", "ALERT_CERTIFICATE_REVOKED"),
        "the broker says that our certificate has expired or was revoked: have certfile renewed",
    ),
    (
        ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_UNSUPPORTED_CERTIFICATE"),
        "the broker does not trust our certificate: certfile must be signed by one whom its ssl_options.cacertfile names",
    ),
    (
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"),
        "that port does not speak TLS: use the one of the broker's listeners.ssl, by default 5671, or amqp:// for a link without",
    ),
    (
        ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        "no version of TLS in common: the broker has to offer 1.2 or 1.3",
    ),
)
"""The first that fits counts. OpenSSL's words, which are the same in all its versions that Python takes."""


def meaning_of(said: str) -> str:
    """What to do about it, or "" if this is not of TLS.

    Args:
        said: the text of the error.
    """
    if "SSL" not in said:
        return ""
    return next((meaning for words, meaning in _MEANINGS if any(word in said for word in words)), "")
