"""Deliverers that come, go and die, and the partitions that they split."""

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from lpm_stream.control import leases, shares
from lpm_stream.control.shares import Share
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import leases as table
from lpm_stream.errors import LeaseLostError

FOUR = range(4)
ME, YOU, THIRD = (f"deliver@elsewhere:{number}:1" for number in range(3))
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def take(
    store: ControlStore,
    holder: str,
    feed: str = "tdr",
    *,
    alone: bool = False,
    assigned: frozenset[int] = frozenset(),
) -> Share:
    return shares.take(store, feed, holder, FOUR, alone=alone, assigned=assigned)


def keep(store: ControlStore, share: Share, assigned: frozenset[int] = frozenset()) -> bool:
    with store.write() as connection:
        return shares.keep(connection, share, assigned)


def die(store: ControlStore, holder: str) -> None:
    """The deliverer was silent for longer than its leases last."""
    with store.write() as connection:
        connection.execute(table.update().where(table.c.holder == holder).values(expires_at=LONG_AGO))


def test_the_first_takes_all_and_gives_half_to_the_second(store):
    first = take(store, ME)
    assert list(first.partitions) == [0, 1, 2, 3]
    assert not keep(store, first)
    assert not take(store, YOU).partitions  # nothing is free yet
    assert keep(store, first)
    again = take(store, ME)
    second = take(store, YOU)
    assert len(again.partitions) == len(second.partitions) == 2
    assert {*again.partitions, *second.partitions} == {0, 1, 2, 3}
    assert not keep(store, again)
    assert not keep(store, second)


def test_what_one_has_is_kept_and_what_it_gives_up_is_gone_for_it(store):
    first = take(store, ME)
    take(store, YOU)
    again = take(store, ME)
    assert again.fence > first.fence
    with pytest.raises(LeaseLostError):
        keep(store, first)
    assert list(take(store, ME).partitions) == list(again.partitions)


@pytest.mark.parametrize("ends", [lambda store, share: die(store, share.holder), shares.leave])
def test_the_other_takes_over_from_one_that_ends(store, ends):
    take(store, ME)
    take(store, YOU)
    mine, yours = take(store, ME), take(store, YOU)
    ends(store, yours)
    assert keep(store, mine)
    assert list(take(store, ME).partitions) == [0, 1, 2, 3]
    with pytest.raises(LeaseLostError):
        keep(store, yours)


def test_one_that_others_take_for_dead_begins_anew(store):
    mine = take(store, ME)
    die(store, ME)
    take(store, YOU)
    with pytest.raises(LeaseLostError):
        shares.renew(store, mine)
    assert not take(store, ME).partitions
    assert leases.at_work(leases.holders(store), "deliver", "tdr") == YOU


def test_one_that_does_not_share_takes_all_or_nothing(store):
    alone = take(store, ME, alone=True)
    assert list(alone.partitions) == [0, 1, 2, 3]
    assert not keep(store, alone)
    assert not take(store, YOU, alone=True).partitions
    assert not take(store, YOU).partitions
    assert not keep(store, alone)  # whoever waits to share has to wait until it ends
    shares.leave(store, alone)
    assert list(take(store, YOU).partitions) == [0, 1, 2, 3]
    assert not take(store, ME, alone=True).partitions


@pytest.mark.parametrize("alone", [True, False])
def test_a_silent_one_cannot_go_on_beside_one_that_has_taken_what_it_had_in_another_way(store, alone):
    mine = take(store, ME, alone=alone)
    die(store, ME)
    assert list(take(store, YOU, alone=not alone).partitions) == [0, 1, 2, 3]
    with pytest.raises(LeaseLostError):
        shares.renew(store, mine)


def test_who_is_at_work_is_told_and_who_waits_is_not(store):
    for holder in (ME, YOU, ME, YOU):
        take(store, holder)
    assert leases.at_work(leases.holders(store), "deliver", "tdr") == f"{ME}, {YOU}"
    assert leases.at_work(leases.holders(store), "publish", "tdr") is None
    assert leases.at_work(leases.holders(store), "deliver", "td") is None


NONE, ALL, ODD, EVEN = frozenset[int](), frozenset(FOUR), frozenset({1, 3}), frozenset({0, 2})


def settle(store: ControlStore, assigned: dict[str, frozenset[int]]) -> dict[str, list[int]]:
    """Has each take its share until nothing changes; returns who has what."""
    found: dict[str, Share] = {}
    for _ in range(4):
        found = {who: take(store, who, assigned=mine) for who, mine in assigned.items()}
    assert not any(keep(store, share, assigned[who]) for who, share in found.items())
    return {who: list(share.partitions) for who, share in found.items()}


def test_each_has_what_the_hub_assigns_to_it(store):
    first = take(store, ME)  # the hub has not said yet
    assert list(first.partitions) == [0, 1, 2, 3]
    assert not keep(store, first, ALL)
    assert not take(store, YOU).partitions  # nothing is assigned to it yet
    assert not keep(store, first, ALL)
    assert keep(store, first, ODD)
    assert settle(store, {ME: ODD, YOU: EVEN}) == {ME: [1, 3], YOU: [0, 2]}
    assert settle(store, {ME: EVEN, YOU: ODD}) == {ME: [0, 2], YOU: [1, 3]}
    assert settle(store, {ME: NONE, YOU: ALL}) == {ME: [], YOU: [0, 1, 2, 3]}


@pytest.mark.parametrize("ends", [lambda store, share: die(store, share.holder), shares.leave])
def test_what_the_hub_assigns_to_one_that_has_ended_is_taken_at_once_and_handed_back(store, ends):
    settle(store, {ME: ODD, YOU: EVEN})
    mine, yours = take(store, ME, assigned=ODD), take(store, YOU, assigned=EVEN)
    ends(store, yours)
    assert keep(store, mine, ODD)
    mine = take(store, ME, assigned=ODD)
    assert list(mine.partitions) == [0, 1, 2, 3]
    assert not keep(store, mine, ODD)
    assert not take(store, YOU, assigned=EVEN).partitions
    assert keep(store, mine, ODD)
    assert settle(store, {ME: ODD, YOU: EVEN}) == {ME: [1, 3], YOU: [0, 2]}


def test_what_the_hub_assigns_to_a_stranger_is_split_all_the_same(store):
    assert settle(store, {ME: frozenset({1}), YOU: NONE}) == {ME: [0, 1, 2], YOU: [3]}


def test_what_the_hub_assigns_to_two_has_one_of_them(store):
    assert settle(store, {ME: ALL, YOU: EVEN}) == {ME: [0, 1, 2, 3], YOU: []}


def test_feeds_are_split_apart(store):
    assert list(take(store, ME, "tdr").partitions) == [0, 1, 2, 3]
    assert list(take(store, YOU, "td").partitions) == [0, 1, 2, 3]


def test_a_fence_is_larger_than_all_before_it_whatever_they_were_for(store):
    fences = [take(store, ME).fence, take(store, YOU).fence, take(store, ME).fence]
    backfill = leases.acquire(store, "backfill:tdr:1", THIRD)
    assert backfill is not None
    fences += [backfill.fence, take(store, YOU).fence]
    with store.write() as connection:
        connection.execute(table.update().where(table.c.holder == THIRD).values(fence=fences[-1] + 10**9))
    fences.append(take(store, ME).fence)
    assert fences == sorted(set(fences))
    assert fences[-1] > fences[0] + 10**9


FEEDS = itertools.count()


@dataclass
class Deliverers:
    """Some deliverers of a feed, each with what it believes to have."""

    store: ControlStore
    feed: str
    partitions: int
    assigned: dict[int, frozenset[int]] = field(default_factory=dict)
    alive: dict[int, Share] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)

    def turn(self, number: int) -> bool:
        """What a deliverer does now and then; whether it changed something."""
        share = self.alive.get(number)
        assigned = self.assigned.get(number, NONE)
        try:
            if share is not None and share.partitions and not keep(self.store, share, assigned):
                return False
        except LeaseLostError:
            pass
        holder = f"deliver@elsewhere:{number}:1"
        every = range(self.partitions)
        found = shares.take(self.store, self.feed, holder, every, alone=False, assigned=assigned)
        self.alive[number] = found
        for partition in found.partitions:
            assert found.fence > self.fences.get(partition, 0)
            self.fences[partition] = found.fence
        return share is None or list(found.partitions) != list(share.partitions)

    def end(self, number: int, *, in_order: bool) -> None:
        share = self.alive.pop(number, None)
        if share is not None and in_order:
            shares.leave(self.store, share)
        elif share is not None:
            die(self.store, share.holder)

    def do(self, what: str, number: int) -> None:
        if what == "turn":
            self.turn(number)
        else:
            self.end(number, in_order=what == "leave")
        self.require_nothing_twice()

    def assign(self) -> None:
        """As a consumer group does it."""
        members = sorted(self.alive)
        self.assigned = {
            number: frozenset(range(at, self.partitions, len(members))) for at, number in enumerate(members)
        }

    def come_to_rest(self) -> None:
        quiet = 0  # rounds: in the first, some may hear what others say in it
        for _ in range(20):
            changes = [self.turn(number) for number in list(self.alive)]
            quiet = 0 if any(changes) else quiet + 1
            if quiet == 2:
                break
        else:
            pytest.fail("they never come to rest")
        held = sorted(one for share in self.alive.values() for one in share.partitions)
        assert held == list(range(self.partitions))

    def require_nothing_twice(self) -> None:
        """At any moment a partition has one lease, and what holds by its lease is in nobody else's hands."""
        valid = []
        for share in self.alive.values():
            with self.store.read() as connection:
                mine = (
                    table.c.name.in_(share.names)
                    & (table.c.fence == share.fence)
                    & (table.c.expires_at > LONG_AGO)
                )
                held = connection.execute(sa.select(sa.func.count()).select_from(table).where(mine)).scalar()
            valid += list(share.partitions) if held == len(share.names) else []
        assert len(valid) == len(set(valid))


STEPS = st.lists(st.tuples(st.sampled_from(["turn", "turn", "leave", "die"]), st.integers(0, 4)), max_size=25)


@given(partitions=st.integers(1, 7), steps=STEPS)
@settings(max_examples=60)
def test_whatever_they_do_each_partition_ends_with_one_and_all_have_as_many(split_store, partitions, steps):
    crowd = Deliverers(split_store, f"feed{next(FEEDS)}", partitions)
    for what, number in steps:
        crowd.do(what, number)
    crowd.turn(0)
    crowd.come_to_rest()
    sizes = [len(share.partitions) for share in crowd.alive.values()]
    assert max(sizes) - min(sizes) <= 1


ASSIGNED = st.one_of(st.none(), st.frozensets(st.integers(0, 6)))  # also to several at once, or to a stranger


@given(partitions=st.integers(1, 7), steps=STEPS, data=st.data())
@settings(max_examples=60)
def test_whatever_the_hub_assigns_each_partition_ends_with_one(split_store, partitions, steps, data):
    crowd = Deliverers(split_store, f"feed{next(FEEDS)}", partitions)
    for what, number in steps:
        if (assigned := data.draw(ASSIGNED)) is not None:
            crowd.assigned[number] = assigned.intersection(range(partitions))
        crowd.do(what, number)
    crowd.turn(0)
    crowd.come_to_rest()


@given(partitions=st.integers(1, 7), steps=STEPS, assigned_at=st.frozensets(st.integers(0, 25)))
@settings(max_examples=60)
def test_what_a_group_assigns_is_what_each_ends_with(split_store, partitions, steps, assigned_at):
    crowd = Deliverers(split_store, f"feed{next(FEEDS)}", partitions)
    for at, (what, number) in enumerate(steps):
        crowd.do(what, number)
        if at in assigned_at:
            crowd.assign()
    crowd.turn(0)
    crowd.assign()
    crowd.come_to_rest()
    for number, share in crowd.alive.items():
        assert set(share.partitions) == crowd.assigned[number]


@pytest.fixture(scope="module")
def split_store(tmp_path_factory):
    opened = ControlStore(f"sqlite:///{tmp_path_factory.mktemp('shares') / 'control.db'}")
    yield opened
    opened.close()
