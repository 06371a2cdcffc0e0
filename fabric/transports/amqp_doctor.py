"""From what was seen on a RabbitMQ broker to what it means for a fleet. Pure: ``amqp_probe`` has done the looking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from statistics import median

from fabric.errors import ConfigurationError, ConnectionLost
from fabric.transports import amqp_features
from fabric.transports.amqp_facts import Facts, Outcome, QueueFacts, Wanted
from fabric.transports.amqp_features import MiB
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.diagnosis import Finding, fail, not_connected, ok, warn
from fabric.transports.topology import former

_CHANNELS = 32
_FRAME = 131_072
_SLOW_PING = 0.25
_PERMISSIONS = "`fabric permissions FLEET` prints what each service needs"


async def examine(settings: AmqpSettings, wanted: Wanted) -> list[Finding]:
    """Connect, try and judge. What can't be reached or is refused is a finding, not an error."""
    from fabric.transports.amqp_probe import probe

    try:
        facts = await probe(settings, wanted)
    except (ConnectionLost, ConfigurationError) as error:
        return [not_connected(error)]
    return judge(facts, settings, wanted)


def judge(facts: Facts, settings: AmqpSettings, wanted: Wanted) -> list[Finding]:
    """In the order in which somebody would mend it."""
    return [
        ok("connect", f"{settings.where} answers; opening a connection took {facts.opened_in * 1000:.0f} ms"),
        *_security(settings, facts),
        *_version(facts),
        *_predictions(facts, wanted),
        *_limits(facts, settings),
        *_alarm(facts),
        *_exchanges(facts, settings),
        *_permissions(facts, settings, wanted),
        *_message(facts, wanted),
        *_journal(facts, settings, wanted),
        *(finding for queue in facts.queues for finding in _queue(queue)),
        *_latency(facts, settings),
        *_left(facts),
    ]


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _security(settings: AmqpSettings, facts: Facts) -> Iterator[Finding]:
    if settings.tls is None and not is_loopback(settings.host):
        yield warn(
            "encryption",
            f"the link to {settings.host} is not encrypted: password and messages can be read on the way",
            "use amqps:// with cacertfile=…; RabbitMQ needs a listener for it (listeners.ssl)",
        )
    elif settings.tls is not None and not settings.tls.verify:
        yield warn(
            "encryption",
            "the link is encrypted, and any certificate is accepted: whoever sits on the way can read and change everything",
            "drop verify=verify_none, and name who signed the broker's certificate with cacertfile=…",
        )
    elif settings.tls is not None:
        yield ok("encryption", "the link is encrypted, and the broker's certificate was checked")
    if settings.user == "guest" and not settings.external and not is_loopback(settings.host):
        yield warn(
            "user",
            "the user is guest, whom everybody knows",
            f"delete it (rabbitmqctl delete_user guest) and make one for each service: {_PERMISSIONS}",
        )
    match facts.impersonation.outcome:
        case Outcome.DONE:
            yield warn(
                "user",
                f"{settings.user} may send messages in any name: what receivers are told about their callers is worth nothing",
                f"take the tag impersonator from it: rabbitmqctl set_user_tags {settings.user}",
            )
        case Outcome.CONFLICT | Outcome.REFUSED:
            yield ok("user", f"the broker vouches for {settings.user}, and refuses messages in another name")


def _version(facts: Facts) -> Iterator[Finding]:
    here = f"{facts.product} {facts.version}" + (f", cluster {facts.cluster}" if facts.cluster else "")
    version = amqp_features.parse(facts.version)
    tested = ", ".join(amqp_features.TESTED)
    if facts.product != "RabbitMQ" or version is None:
        yield warn("version", here, f"Fabric is tested on RabbitMQ {tested} only; run its broker tests against this one first")
    elif version < amqp_features.OLDEST:
        yield fail(
            "version",
            f"{here}: quorum queues have no message TTL and dead-letter at most once, so retries and dead letters can't be kept",
            "upgrade to 3.10 or later",
        )
    elif version > amqp_features.NEWEST:
        yield warn("version", here, f"newer than what Fabric is tested on ({tested}); read its release notes for what it refuses")
    else:
        yield ok("version", here)


def _predictions(facts: Facts, wanted: Wanted) -> Iterator[Finding]:
    """What this version refuses or does in another way, said before anything runs into it."""
    version = amqp_features.parse(facts.version)
    if facts.product != "RabbitMQ" or version is None:
        return
    has = amqp_features.features(version)
    if wanted.message_bytes > has.max_message:
        yield fail(
            "prediction",
            f"messages of {_size(wanted.message_bytes)} are allowed, and this version takes {_size(has.max_message)} by default",
            "lower FABRIC_MAX_MESSAGE_BYTES, or raise max_message_size in rabbitmq.conf",
        )
    else:
        yield ok("prediction", f"messages: up to {_size(has.max_message)} by default; ours have {_size(wanted.message_bytes)}")
    levels = {
        "none": "does not order quorum queues by priority: events are handled in the order in which they came. From 4.0 it would",
        "two": "orders quorum queues by two priorities, as 4.0 to 4.2 do: high and critical events before others, 2 to 1",
        "all": "orders quorum queues by all priorities, as from 4.3 on; with many critical events low ones wait",
    }
    yield ok("prediction", f"events: this version {levels[has.quorum_priorities]}")
    ordered = [queue.name or "" for queue in wanted.queues if queue.single]
    if ordered and amqp_features.may_wedge(facts.version):
        yield warn(
            "prediction",
            "ordered events: in 4.3.0 to 4.3.5 a quorum queue with a single active consumer can stop delivering after that one"
            f" was timed out (rabbitmq-server#17317): {', '.join(ordered)}",
            "upgrade to 4.3.6",
        )
    if has.refuses_transient:
        yield ok("prediction", "queues that are neither durable nor exclusive may be refused from 4.3 on; Fabric declares none")
    if has.delivery_limit is not None:
        yield ok(
            "prediction",
            f"quorum queues without a limit of their own give up after {has.delivery_limit} deliveries; Fabric's have one",
        )


def _limits(facts: Facts, settings: AmqpSettings) -> Iterator[Finding]:
    if 0 < facts.channel_max < _CHANNELS:
        yield fail(
            "limits",
            f"a connection may have {facts.channel_max} channels; a hub needs up to {_CHANNELS}",
            "raise channel_max in rabbitmq.conf",
        )
    if 0 < facts.frame_max < _FRAME:
        yield warn(
            "limits",
            f"frames have at most {facts.frame_max} bytes: the history of a message that failed may not fit into its headers",
            f"set frame_max in rabbitmq.conf to {_FRAME}, its default",
        )
    if settings.heartbeat == 0:
        yield warn(
            "limits",
            "AMQP heartbeats are off: the broker keeps links of dead processes until TCP notices, with all they had not settled",
            "drop heartbeat=0 from the URL",
        )
    yield ok(
        "limits",
        f"channels {facts.channel_max or 'without limit'}, frames of {facts.frame_max or 'any number of'} bytes,"
        f" heartbeat {settings.heartbeat} s",
    )


def _alarm(facts: Facts) -> Iterator[Finding]:
    if facts.alarm is None:
        yield ok("alarm", "it takes messages: no memory or disk alarm")
    else:
        yield fail(
            "alarm",
            f"it takes no messages: {facts.alarm}",
            "free memory or disk on the broker, or raise vm_memory_high_watermark or lower disk_free_limit; it goes on by itself",
        )


def _exchanges(facts: Facts, settings: AmqpSettings) -> Iterator[Finding]:
    missing = [trial.needs for trial in facts.exchanges if trial.outcome is Outcome.MISSING]
    may_declare = any(trial.doing == "declare exchanges" and trial.outcome is Outcome.DONE for trial in facts.trials)
    for trial in facts.exchanges:
        if trial.outcome is Outcome.CONFLICT:
            yield fail(
                "exchange",
                f"{trial.needs} is of another kind: {trial.said}",
                f"stop what uses it and delete it, or choose another FABRIC_NAMESPACE; its vhost is {settings.vhost}",
            )
        elif trial.outcome in (Outcome.FAILED, Outcome.SKIPPED):
            yield fail("exchange", f"{trial.needs} can't be looked at: {trial.said}", "")
    if missing and not may_declare:
        yield fail(
            "exchange",
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, and {settings.user} may not declare exchanges",
            "start the coordinator or any service that may, or import the definitions of `fabric permissions FLEET --json`",
        )
    elif missing:
        yield ok("exchange", f"{', '.join(missing)}: not there yet; the first hub declares what is missing")
    elif all(trial.outcome is Outcome.DONE for trial in facts.exchanges):
        yield ok("exchange", f"all {len(facts.exchanges)} exchanges are there, as Fabric declares them")


def _permissions(facts: Facts, settings: AmqpSettings, wanted: Wanted) -> Iterator[Finding]:
    whose = f"the service {wanted.service}" if wanted.service else "any service"
    done = sum(trial.outcome is Outcome.DONE for trial in facts.trials)
    skipped = [trial.said for trial in facts.trials if trial.outcome is Outcome.SKIPPED]
    for trial in facts.trials:
        if trial.outcome in (Outcome.DONE, Outcome.SKIPPED) or trial.doing == "declare exchanges":
            continue
        if trial.outcome is Outcome.REFUSED and "topic" in trial.said and not wanted.service:
            yield warn(
                "permissions",
                f"{settings.user} may not {trial.doing}: topic permissions limit it",
                "name the service whose user this is (--service), so that only what it needs is tried",
            )
        elif trial.outcome is Outcome.REFUSED:
            yield fail(
                "permissions",
                f"{settings.user} may not {trial.doing}: it needs {trial.needs}",
                f"rabbitmqctl set_permissions -p {settings.vhost} {settings.user} CONFIGURE WRITE READ; {_PERMISSIONS}",
            )
        else:
            yield fail("permissions", f"{settings.user} can't {trial.doing}: {trial.said}", "see the broker's log")
    if skipped:
        untried = f"{len(skipped)} of {len(facts.trials)} things could not be tried: {skipped[0]}"
        yield warn("permissions", untried, "examine again when that is mended")
    if done:
        yield ok("permissions", f"{settings.user} may do {done} of {len(facts.trials)} things that {whose} needs")


def _message(facts: Facts, wanted: Wanted) -> Iterator[Finding]:
    size = _size(wanted.message_bytes)
    match facts.message.outcome:
        case Outcome.DONE:
            yield ok("message-size", f"it took a message of {size}, the largest that Fabric sends (FABRIC_MAX_MESSAGE_BYTES)")
        case Outcome.CONFLICT:
            limit = re.search(r"max size (\d+)", facts.message.said)
            takes = f"at most {_size(int(limit[1]))}" if limit else "less"
            yield fail(
                "message-size",
                f"it refused a message of {size}, the largest that Fabric sends: it takes {takes}",
                "lower FABRIC_MAX_MESSAGE_BYTES for every process, or raise max_message_size in rabbitmq.conf",
            )
        case Outcome.FAILED:
            yield warn("message-size", f"a message of {size} was not confirmed: {facts.message.said}", "is the network slow?")


def _journal(facts: Facts, settings: AmqpSettings, wanted: Wanted) -> Iterator[Finding]:
    name, looked = wanted.topology.journal, facts.journal
    without = "without it a coordinator that dies is succeeded by one that knows nothing of its runs"
    match looked.outcome if looked else None:
        case Outcome.DONE:
            yield ok("journal", f"the stream {name} is there as a coordinator makes it, or could be made")
        case Outcome.MISSING:
            yield ok("journal", f"the stream {name} is not there yet; the coordinator makes it")
        case Outcome.CONFLICT if looked:
            yield fail(
                "journal",
                f"{name} is not the stream that a coordinator would make: {looked.said}",
                f"stop the coordinator and delete it (rabbitmqctl delete_queue -p {settings.vhost} {name}): its history is lost",
            )
        case Outcome.REFUSED if looked:
            yield warn(
                "journal",
                f"{settings.user} may not {looked.doing}: it needs {looked.needs}; {without}",
                f"only the coordinator's user needs it; {_PERMISSIONS}",
            )
        case Outcome.FAILED if looked:
            yield fail(
                "journal",
                f"{settings.user} can't {looked.doing}: {looked.said}; {without}",
                "`rabbitmqctl enable_feature_flag stream_queue` where streams are off; or set FABRIC_JOURNAL to a file that"
                " coordinators share",
            )


def _queue(queue: QueueFacts) -> Iterator[Finding]:
    holds = f"{queue.messages} messages, {queue.consumers} consumers"
    match queue.fits.outcome:
        case Outcome.DONE:
            yield ok("queue", f"{queue.name}: as Fabric declares it; {holds}")
        case Outcome.MISSING:
            yield ok("queue", f"{queue.name}: not there yet; its service makes it, and gets no events from before that")
        case Outcome.REFUSED:
            yield warn(
                "queue", f"{queue.name}: {holds}; not permitted to compare it", f"examine it as a user with {queue.fits.needs}"
            )
        case Outcome.CONFLICT:
            yield fail(
                "queue",
                f"{queue.name}: has other properties than Fabric would declare: {queue.fits.said}; {holds}",
                "its service can't consume it. Stop the service, move or drain what it holds and delete it, or give the handlers"
                " another group= : docs/rabbitmq.md tells how",
            )
        case Outcome.FAILED | Outcome.SKIPPED:
            yield fail(
                "queue", f"{queue.name}: can't be looked at: {queue.fits.said}", "is its leader there? rabbitmqctl list_queues"
            )
    if queue.former is not None:
        yield warn(
            "queue",
            f"{former(queue.name)}: the group had it before it was ordered, or when it was; {queue.former} messages",
            f"the next instance of its service moves them to {queue.name} and removes it, once nobody consumes it any more",
        )
    if queue.dead:
        yield warn(
            "queue",
            f"{queue.name}: {queue.dead} dead letters",
            "`fabric dead-letters list SERVICE` tells why; `replay` delivers them again",
        )


def _latency(facts: Facts, settings: AmqpSettings) -> Iterator[Finding]:
    middle, worst = median(facts.pings), max(facts.pings)
    said = f"a round trip takes {middle * 1000:.1f} ms, the slowest of {len(facts.pings)} {worst * 1000:.1f} ms"
    if worst > settings.ping_timeout / 2:
        yield fail("latency", said, f"links whose ping takes {settings.ping_timeout:g} s are given up: find out what is slow")
    elif middle > _SLOW_PING:
        yield warn("latency", said, "each call needs two: run the broker nearer to the services")
    else:
        yield ok("latency", said)


def _left(facts: Facts) -> Iterator[Finding]:
    if facts.left:
        yield warn("clean-up", f"could not be removed again: {', '.join(facts.left)}", "rabbitmqctl delete_queue NAME")


def _size(count: int) -> str:
    return f"{count / MiB:g} MiB" if count % 1024 == 0 else f"{count} bytes"
