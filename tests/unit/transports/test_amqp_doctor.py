"""What is concluded from what was seen on a broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fabric.errors import ConfigurationError, ConnectionLost
from fabric.transports import amqp_features
from fabric.transports.amqp_doctor import is_loopback, judge
from fabric.transports.amqp_facts import Facts, Outcome, QueueFacts, Trial, Wanted
from fabric.transports.amqp_settings import AmqpSettings, Tls
from fabric.transports.diagnosis import Finding, Level, not_connected, worst
from fabric.transports.topology import Topology

MiB = 1024 * 1024


def trial(outcome: Outcome = Outcome.DONE, said: str = "", doing: str = "publish to 'x'", needs: str = "write on x") -> Trial:
    return Trial(doing=doing, needs=needs, outcome=outcome, said=said)


GOOD = Facts(
    product="RabbitMQ",
    version="4.0.5",
    cluster="rabbit@one",
    channel_max=2047,
    frame_max=131_072,
    opened_in=0.01,
    pings=(0.001, 0.002, 0.001),
    alarm=None,
    exchanges=(trial(needs="fabric.rpc"),),
    trials=(trial(),),
    impersonation=trial(Outcome.CONFLICT, "user_id property set to 'not-me'"),
    message=trial(),
    queues=(),
    left=(),
)


def found(
    facts: Facts = GOOD, *, settings: AmqpSettings | None = None, message_bytes: int = 8 * MiB, service: str = "", **changes: Any
) -> list[Finding]:
    wanted = Wanted(topology=Topology("fabric"), service=service, message_bytes=message_bytes)
    return judge(replace(facts, **changes), settings or AmqpSettings(), wanted)


def only(check: str, findings: list[Finding]) -> Finding:
    (finding,) = [finding for finding in findings if finding.check == check]
    return finding


def test_a_good_broker() -> None:
    """Nothing is wrong with a broker on which everything worked."""
    assert worst(found()) is Level.OK
    assert worst([]) is Level.OK


@pytest.mark.parametrize(
    ("changes", "check", "level", "says"),
    [
        ({"version": "3.9.29"}, "version", Level.FAIL, "3.10 or later"),
        ({"version": "4.4.0"}, "version", Level.WARN, "newer than"),
        ({"version": "what"}, "version", Level.WARN, "tested on RabbitMQ"),
        ({"product": "LavinMQ", "version": "2.0.0"}, "version", Level.WARN, "tested on RabbitMQ"),
        ({"alarm": "low on disk"}, "alarm", Level.FAIL, "low on disk"),
        ({"pings": (0.001, 2.0)}, "latency", Level.FAIL, "find out what is slow"),
        ({"pings": (0.3, 0.4)}, "latency", Level.WARN, "nearer"),
        ({"left": ("fabric.doctor-1",)}, "clean-up", Level.WARN, "fabric.doctor-1"),
        ({"impersonation": trial()}, "user", Level.WARN, "impersonator"),
        (
            {"message": trial(Outcome.CONFLICT, "larger than configured max size 1048576")},
            "message-size",
            Level.FAIL,
            "1 MiB",
        ),
        ({"message": trial(Outcome.CONFLICT, "no")}, "message-size", Level.FAIL, "takes less"),
        ({"message": trial(Outcome.FAILED, "no confirm")}, "message-size", Level.WARN, "no confirm"),
        ({"exchanges": (trial(Outcome.CONFLICT, "inequivalent arg", needs="fabric.rpc"),)}, "exchange", Level.FAIL, "fabric.rpc"),
        ({"exchanges": (trial(Outcome.MISSING, needs="fabric.rpc"),)}, "exchange", Level.FAIL, "may not declare"),
        ({"exchanges": (trial(Outcome.FAILED, "gone", needs="fabric.rpc"),)}, "exchange", Level.FAIL, "gone"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], check: str, level: Level, says: str) -> None:
    """Each thing that can be wrong is one finding with its level, and text or advice that says what it is about."""
    finding = only(check, found(**changes))
    assert finding.level is level
    assert says in f"{finding.message} {finding.advice}"


def test_missing_exchanges_that_we_may_make() -> None:
    """Exchanges that are not there yet are fine when the user may declare them."""
    may = trial(doing="declare exchanges", needs="configure on fabric.doctor-1")
    missing = (trial(Outcome.MISSING, needs="fabric.rpc"),)
    assert only("exchange", found(exchanges=missing, trials=(may,))).level is Level.OK


def test_refused_permissions_are_named() -> None:
    """A refusal tells what could not be done, the permission it takes, and the command that gives it; others failing is not a
    matter of permissions."""
    refused = trial(Outcome.REFUSED, "access to exchange 'fabric.rpc' refused", "publish to 'fabric.rpc'", "write on fabric.rpc")
    lost = trial(Outcome.FAILED, "no quorum", "declare the durable queue 'q'")
    first, second = [finding for finding in found(trials=(refused, lost)) if finding.check == "permissions"]
    assert first.message == "guest may not publish to 'fabric.rpc': it needs write on fabric.rpc"
    assert "rabbitmqctl set_permissions -p / guest" in first.advice
    assert second.message == "guest can't declare the durable queue 'q': no quorum"


def test_topic_permissions_need_a_service() -> None:
    """A topic that is refused is a failure for the service that needs it, and no more than a hint when nobody said whose user it
    is."""
    refused = trial(Outcome.REFUSED, "access to topic 'vote.x' in exchange 'fabric.control' in vhost '/' refused for user 'u'")
    assert only("permissions", found(trials=(refused,))).level is Level.WARN
    assert only("permissions", found(trials=(refused,), service="mailer")).level is Level.FAIL


def test_what_could_not_be_tried() -> None:
    """Things that were skipped are counted, with why."""
    skipped = trial(Outcome.SKIPPED, "low on memory")
    few, some = [finding for finding in found(trials=(trial(), skipped)) if finding.check == "permissions"]
    assert (few.level, "1 of 2 things could not be tried: low on memory" in few.message) == (Level.WARN, True)
    assert some.message == "guest may do 1 of 2 things that any service needs"


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Outcome.DONE, Level.OK),
        (Outcome.MISSING, Level.OK),
        (Outcome.REFUSED, Level.WARN),
        (Outcome.CONFLICT, Level.FAIL),
        (Outcome.FAILED, Level.FAIL),
    ],
)
def test_queues(outcome: Outcome, level: Level) -> None:
    """A queue is fine if it fits or is not there yet, and a failure if its service could not consume it."""
    assert only("queue", found(queues=(QueueFacts(name="q", fits=trial(outcome, "said")),))).level is level


def test_dead_letters() -> None:
    """Dead letters are a warning of their own."""
    findings = found(queues=(QueueFacts(name="q", fits=trial(), messages=2, consumers=1, dead=3),))
    assert [(finding.level, finding.message) for finding in findings if finding.check == "queue"] == [
        (Level.OK, "q: as Fabric declares it; 2 messages, 1 consumers"),
        (Level.WARN, "q: 3 dead letters"),
    ]


def test_limits_of_a_connection() -> None:
    """Too few channels is a failure, small frames and no heartbeat are warnings, no limit is fine."""

    def levels(findings: list[Finding]) -> list[Level]:
        return [finding.level for finding in findings if finding.check == "limits"]

    assert levels(found(channel_max=8)) == [Level.FAIL, Level.OK]
    assert levels(found(frame_max=8192)) == [Level.WARN, Level.OK]
    assert levels(found(settings=AmqpSettings(heartbeat=0))) == [Level.WARN, Level.OK]
    assert levels(found(channel_max=0, frame_max=0)) == [Level.OK]


def test_messages_over_what_a_version_takes() -> None:
    """16 MiB is the limit of RabbitMQ 4 and fine on 3.10, by prediction from the version alone."""
    for version, level in (("4.0.5", Level.FAIL), ("3.10.8", Level.OK)):
        predictions = [finding for finding in found(version=version, message_bytes=17 * MiB) if finding.check == "prediction"]
        assert worst(predictions) is level
    silent = [finding.check for finding in found(product="LavinMQ")]
    assert "prediction" not in silent


def test_security() -> None:
    """Links without encryption, unchecked certificates and the user guest are warned of, except on this machine."""

    def levels(settings: AmqpSettings) -> dict[str, Level]:
        findings = found(settings=settings, impersonation=trial(Outcome.SKIPPED))
        return {finding.check: finding.level for finding in findings if finding.check in ("encryption", "user")}

    assert levels(AmqpSettings()) == {}
    assert levels(AmqpSettings(host="mq.example.org")) == {"encryption": Level.WARN, "user": Level.WARN}
    assert levels(AmqpSettings(host="mq.example.org", user="mailer", tls=Tls())) == {"encryption": Level.OK}
    assert levels(AmqpSettings(host="localhost", user="mailer", tls=Tls(verify=False))) == {"encryption": Level.WARN}


def test_loopback() -> None:
    """Addresses of this machine, and no other names."""
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("10.0.0.1", "mq", "127.0.0.1.example.org")] == [False] * 3


def test_versions() -> None:
    """Major and minor are read from what brokers call their version, and nothing else is."""
    assert amqp_features.parse("3.13.7+rc.1") == (3, 13)
    assert amqp_features.parse("4.0.5") == (4, 0)
    assert amqp_features.parse("") is amqp_features.parse("v4") is None


def test_not_connected() -> None:
    """Who was refused reads what to check; who reached nobody is told that, so that a script can tell them apart."""
    assert not_connected(ConnectionLost("connecting: refused")).check == "reach"
    refused = not_connected(ConfigurationError("connecting: refused: 403 ACCESS_REFUSED - Login was refused"))
    assert (refused.check, "authenticate_user" in refused.advice) == ("connect", True)
    assert "list_vhosts" in not_connected(ConfigurationError("NOT_ALLOWED - vhost x not found")).advice
    assert not_connected(ConfigurationError("something else")).advice == ""


@pytest.mark.parametrize(
    ("journal", "level", "says"),
    [
        (trial(), Level.OK, "is there"),
        (trial(Outcome.MISSING), Level.OK, "not there yet"),
        (trial(Outcome.CONFLICT, "inequivalent arg"), Level.FAIL, "delete_queue"),
        (trial(Outcome.REFUSED, needs="configure on x"), Level.WARN, "configure on x"),
        (trial(Outcome.FAILED, "541"), Level.FAIL, "stream_queue"),
    ],
)
def test_the_journal(journal: Trial, level: Level, says: str) -> None:
    """What keeps a coordinator from its journal is a failure with advice, unless another user is the one who needs it."""
    finding = only("journal", found(journal=journal))
    assert finding.level is level
    assert says in finding.message + finding.advice


@pytest.mark.parametrize(
    ("version", "ordered", "told"),
    [("4.3.5", True, True), ("4.3.0", True, True), ("4.3.6", True, False), ("4.3.5", False, False), ("4.0.5", True, False)],
)
def test_versions_in_which_ordered_events_can_stop(version: str, ordered: bool, told: bool) -> None:
    """A fleet with ordered groups is warned of the versions in which their queues can stop delivering, and only of those."""
    topology = Topology("fabric")
    group = topology.event_group("mail", ("#",), prefetch=1, max_attempts=1, retry_delays=(1.0,), ordered=ordered)
    wanted = Wanted(topology=topology, queues=(group,), message_bytes=MiB)
    findings = judge(replace(GOOD, version=version), AmqpSettings(), wanted)
    assert [finding.level for finding in findings if "17317" in finding.message] == [Level.WARN] * told


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("3.10.8", "does not order quorum queues by priority"),
        ("4.0.5", "two priorities, as 4.0 to 4.2 do"),
        ("4.3.6", "all priorities, as from 4.3 on"),
    ],
)
def test_what_each_version_does_not_do(version: str, says: str) -> None:
    """Each tested version is told what it does with priorities, and since when it would do more."""
    assert any(says in finding.message for finding in found(version=version))
