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


def take(store: ControlStore, holder: str, feed: str = "tdr", *, alone: bool = False) -> Share:
    return shares.take(store, feed, holder, FOUR, alone=alone)


def keep(store: ControlStore, share: Share) -> bool:
    with store.write() as connection:
        return shares.keep(connection, share)


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
    alive: dict[int, Share] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)

    def turn(self, number: int) -> bool:
        """What a deliverer does now and then; whether it changed something."""
        share = self.alive.get(number)
        try:
            if share is not None and share.partitions and not keep(self.store, share):
                return False
        except LeaseLostError:
            pass
        holder = f"deliver@elsewhere:{number}:1"
        found = shares.take(self.store, self.feed, holder, range(self.partitions), alone=False)
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
        if what == "turn":
            crowd.turn(number)
        else:
            crowd.end(number, in_order=what == "leave")
        crowd.require_nothing_twice()
    crowd.turn(0)
    for _ in range(20):
        changes = [crowd.turn(number) for number in list(crowd.alive)]
        if not any(changes):
            break
    else:
        pytest.fail("they never come to rest")
    sizes = [len(share.partitions) for share in crowd.alive.values()]
    assert sum(sizes) == partitions
    assert max(sizes) - min(sizes) <= 1
    assert {one for share in crowd.alive.values() for one in share.partitions} == set(range(partitions))


@pytest.fixture(scope="module")
def split_store(tmp_path_factory):
    opened = ControlStore(f"sqlite:///{tmp_path_factory.mktemp('shares') / 'control.db'}")
    yield opened
    opened.close()
