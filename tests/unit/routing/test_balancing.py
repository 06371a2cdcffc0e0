"""Who gets the next call: fair shares, whoever comes and goes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.routing.balancing import STRATEGIES, LeastConnections, Random, RoundRobin, Strategy, Weighted, strategy
from fabric.routing.registry import Endpoint
from tests.unit.routing.instances import endpoints, instance
from tests.unit.wire.messages import unhurried

CHOICES = 10_000
EVEN = ("round-robin", "least-connections", "weighted")


def shares(chooser: Strategy, candidates: Sequence[Endpoint], choices: int = CHOICES) -> Counter[str]:
    return Counter(chooser.choose(candidates).id for _ in range(choices))


def longest_wait(chooser: Strategy, candidates: Sequence[Endpoint], choices: int = CHOICES) -> int:
    """How many choices the unluckiest waited for its turn."""
    last = dict.fromkeys((endpoint.id for endpoint in candidates), 0)
    longest = 0
    for turn in range(1, choices + 1):
        id = chooser.choose(candidates).id
        longest = max(longest, turn - last[id])
        last[id] = turn
    return max(longest, *(choices - turn for turn in last.values()))


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_equal_ones_get_equal_shares(name: str, count: int) -> None:
    """Over 10,000 choices each of equal instances is within 1 % of its share, and waits no longer than one round."""
    candidates = endpoints([1] * count)
    found = shares(strategy(name), candidates)
    assert all(abs(found[endpoint.id] - CHOICES / count) <= max(1, CHOICES / count / 100) for endpoint in candidates)
    assert longest_wait(strategy(name), candidates, 1000) <= count


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_random_is_fair_as_far_as_chance_goes(count: int) -> None:
    """Each share is within five standard deviations; a fair choice fails that once in millions, and the seed is fixed."""
    candidates = endpoints([1] * count)
    found = shares(Random(random.Random(7)), candidates)
    deviation = math.sqrt(CHOICES / count * (1 - 1 / count))
    assert all(abs(found[endpoint.id] - CHOICES / count) <= 5 * deviation for endpoint in candidates)
    assert sum(found.values()) == CHOICES


@pytest.mark.parametrize("count", [2, 3, 8])
def test_random_shares_are_within_a_hundredth_of_themselves(count: int) -> None:
    """Over so many calls that chance itself deviates by less than a fifth of that: each share within 1 % of what is due."""
    candidates, calls = endpoints([1] * count), 250_000 * (count - 1)
    found = shares(Random(random.Random(7)), candidates, calls)
    assert all(abs(found[endpoint.id] * count / calls - 1) < 0.01 for endpoint in candidates)


@pytest.mark.parametrize("weights", [[1, 2, 3], [5, 1, 1], [10, 10, 1], [1, 99], [7] * 4, [3, 1, 4, 1, 5, 9, 2, 6]])
def test_weights_are_kept(weights: list[int]) -> None:
    """Over 10,000 choices each share is within 2 % of its weight's, and none starves."""
    candidates = endpoints(weights)
    found = shares(Weighted(), candidates)
    for endpoint, weight in zip(candidates, weights, strict=True):
        due = CHOICES * weight / sum(weights)
        assert abs(found[endpoint.id] - due) <= max(1, due * 0.02)
    assert longest_wait(Weighted(), candidates) <= sum(weights)


@unhurried
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_any_weights_are_kept(weights: list[int]) -> None:
    """For any weights no instance is ever more than a few calls from its due, at any moment."""
    candidates = endpoints(weights)
    chooser, found, total = Weighted(), Counter[str](), sum(weights)
    for turn in range(1, 300):
        found[chooser.choose(candidates).id] += 1
        for endpoint, weight in zip(candidates, weights, strict=True):
            assert abs(found[endpoint.id] - turn * weight / total) <= len(weights)


def test_weighted_spreads_the_heavy_one() -> None:
    """The heavy instance's calls are spread over the round and not sent in one burst."""
    chooser, candidates = Weighted(), endpoints([5, 1, 1])
    order = [chooser.choose(candidates).id[-1] for _ in range(7)]
    assert order == ["0", "0", "1", "0", "2", "0", "0"]


def test_a_new_weight_counts_at_once() -> None:
    """An instance that announces another weight gets the other share from then on."""
    chooser, candidates = Weighted(), endpoints([1, 1])
    shares(chooser, candidates)
    candidates[0].instance = instance(candidates[0].id, weight=3)
    found = shares(chooser, candidates)
    assert abs(found[candidates[0].id] - 7500) <= 150


def test_least_connections_takes_the_least() -> None:
    """The one with the fewest calls under way is chosen, wherever it stands."""
    candidates = endpoints([1] * 5)
    chooser = LeastConnections()
    for pending, endpoint in zip([3, 2, 5, 1, 2], candidates, strict=True):
        endpoint.pending = pending
    assert {chooser.choose(candidates).id for _ in range(20)} == {candidates[3].id}


def test_least_connections_is_fair_among_equals_beside_a_busy_one() -> None:
    """Those that are equally free share evenly, also the one that stands behind a busy one."""
    candidates = endpoints([1] * 4)
    candidates[0].pending = 10
    found = shares(LeastConnections(), candidates)
    assert found[candidates[0].id] == 0
    assert all(abs(found[endpoint.id] - CHOICES / 3) <= CHOICES / 300 for endpoint in candidates[1:])


def test_least_connections_spares_the_slow_one() -> None:
    """M13 (brpc#3340): with calls that last, an instance that takes ten times as long gets less than its fair share."""
    candidates = endpoints([1] * 4)
    chooser, found, ends = LeastConnections(), Counter[str](), list[tuple[int, Endpoint]]()
    for turn in range(CHOICES):
        for end in [end for end in ends if end[0] <= turn]:
            end[1].pending -= 1
            ends.remove(end)
        endpoint = chooser.choose(candidates)
        endpoint.pending += 1
        found[endpoint.id] += 1
        ends.append((turn + (100 if endpoint is candidates[0] else 10), endpoint))
    assert found[candidates[0].id] < CHOICES * 0.1
    assert all(found[endpoint.id] > CHOICES * 0.25 for endpoint in candidates[1:])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_candidates_that_come_and_go(name: str) -> None:
    """Nobody starves while others appear and disappear, and no choice falls on one that is not offered."""
    chooser, chance, everybody = strategy(name, random.Random(1)), random.Random(2), endpoints([1] * 6)
    stays, found, offered = everybody[3], Counter[str](), dict.fromkeys((endpoint.id for endpoint in everybody), 0.0)
    for _ in range(CHOICES):
        candidates = [endpoint for endpoint in everybody if endpoint is stays or chance.random() < 0.5]
        chosen = chooser.choose(candidates)
        assert chosen in candidates
        found[chosen.id] += 1
        for endpoint in candidates:
            offered[endpoint.id] += 1 / len(candidates)
    for endpoint in everybody:
        assert found[endpoint.id] > 0.8 * offered[endpoint.id]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_retries_do_not_make_anybody_starve(name: str) -> None:
    """M13 (grpc-java#12237): one of three refuses every call, each is tried again among the other two; these share evenly."""
    chooser, everybody, found = strategy(name), endpoints([1] * 3), Counter[str]()
    broken = everybody[0]
    for _ in range(CHOICES):
        chosen = chooser.choose(everybody)
        if chosen is broken:
            chosen = chooser.choose([endpoint for endpoint in everybody if endpoint is not broken])
        found[chosen.id] += 1
    assert all(abs(found[endpoint.id] - CHOICES / 2) <= CHOICES * 0.05 for endpoint in everybody[1:])


def test_weighted_is_fair_to_one_that_is_there_half_the_time() -> None:
    """A candidate that is offered at every other choice gets its share of those."""
    everybody = endpoints([1] * 3)
    chooser, found = Weighted(), Counter[str]()
    for turn in range(CHOICES):
        found[chooser.choose(everybody if turn % 2 else everybody[:2]).id] += 1
    assert abs(found[everybody[2].id] - CHOICES / 6) <= CHOICES / 600


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_hubs_do_not_all_begin_with_the_same(name: str) -> None:
    """Three hundred processes that make one call each spread over ten instances instead of meeting at the first."""
    candidates = endpoints([1] * 10)
    chance = random.Random(3)
    first = Counter(strategy(name, chance).choose(candidates).id for _ in range(300))
    assert len(first) == 10
    assert max(first.values()) < 60


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_random_start_stays_fair(name: str, count: int) -> None:
    """Where it begins changes nothing of the shares."""
    candidates = endpoints([1] * count)
    found = shares(strategy(name, random.Random(5)), candidates)
    assert all(abs(found[endpoint.id] - CHOICES / count) <= CHOICES / count / 100 for endpoint in candidates)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_one_candidate_is_always_chosen(name: str) -> None:
    """With one instance there is no choice, however many there were before."""
    chooser = strategy(name, random.Random(1))
    shares(chooser, endpoints([1, 2, 3]), 100)
    lone = endpoints([1])
    assert shares(chooser, lone, 100) == {lone[0].id: 100}


def test_what_weighted_keeps_is_bounded() -> None:
    """M28 (moleculer#705): instances that came and went do not stay in the books."""
    chooser = Weighted()
    for n in range(5000):
        chooser.choose([Endpoint(instance(f"i-{n}"), 0.0), Endpoint(instance("i-stays"), 0.0)])
    assert len(chooser._current) < 200


@pytest.mark.parametrize(("name", "kind"), [("round-robin", RoundRobin), ("least-connections", LeastConnections)])
def test_without_chance_it_begins_with_the_first(name: str, kind: Callable[[], Strategy]) -> None:
    """Where no chance is given the order is the same each time, for tests that count on it."""
    candidates = endpoints([1] * 3)
    for chooser in (strategy(name), kind()):
        assert [chooser.choose(candidates) for _ in range(4)] == [*candidates, candidates[0]]


def test_an_unknown_strategy() -> None:
    """A misspelt name says which there are."""
    with pytest.raises(ConfigurationError, match="there are: least-connections, p2c, random, round-robin, weighted"):
        strategy("roundrobin")
