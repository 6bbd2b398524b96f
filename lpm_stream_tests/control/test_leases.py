import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import sqlalchemy as sa

from lpm_stream.control import leases, tables
from lpm_stream.control.store import ControlStore
from lpm_stream.errors import LeaseLostError

ME, YOU = "publish@elsewhere:1:1", "publish@elsewhere:2:1"  # of another host, so nobody asks whether they live


def expire(store: ControlStore, name: str = "work") -> None:
    with store.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(tables.leases.update().where(tables.leases.c.name == name).values(expires_at=past))


def acquired(store: ControlStore, holder: str = ME, name: str = "work") -> leases.Lease:
    lease = leases.acquire(store, name, holder)
    assert lease is not None
    return lease


def test_a_second_worker_gets_nothing_until_the_lease_is_given_back(store):
    lease = acquired(store)
    assert leases.acquire(store, "work", YOU) is None
    assert leases.acquire(store, "other work", YOU) is not None
    assert leases.holders(store) == {"work": ME, "other work": YOU}
    leases.release(store, lease)
    assert acquired(store, YOU).fence > lease.fence


def test_an_expired_lease_can_be_taken_and_its_holder_notices(store):
    lease = acquired(store)
    expire(store)
    assert leases.holders(store) == {}
    leases.renew(store, lease)  # nobody else has come: it goes on
    assert leases.acquire(store, "work", YOU) is None
    expire(store)
    taken = acquired(store, YOU)
    assert taken.fence > lease.fence
    with pytest.raises(LeaseLostError, match="taken over work"):
        leases.renew(store, lease)
    leases.release(store, lease)  # not its own any more
    assert leases.holders(store) == {"work": YOU}


def test_it_says_whose_work_goes_on_after_a_death(store, caplog):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = f"publish@{socket.gethostname()}:{gone.pid}:1"
    acquired(store, dead)
    acquired(store)
    assert f"work: its worker {dead} has died" in caplog.text
    caplog.clear()
    leases.release(store, acquired(store))
    acquired(store, YOU)
    assert caplog.text == ""


def test_a_lease_from_a_clock_that_was_set_back_holds_nobody_up(store):
    lease = acquired(store)
    with store.write() as connection:
        later = datetime.now(UTC) + timedelta(hours=2)
        connection.execute(tables.leases.update().values(expires_at=later))
    assert leases.holders(store) == {}
    assert not leases.is_held(store, "work", lease.fence)
    leases.renew(store, lease)  # whoever lives renews it, by the clock of now
    assert leases.holders(store) == {"work": ME}
    assert leases.acquire(store, "work", YOU) is None


def test_a_check_makes_its_transaction_conditional(store):
    lease = acquired(store)
    expire(store)
    acquired(store, YOU)

    def work() -> None:
        with store.write() as connection:
            connection.execute(tables.companies.insert().values(company="A", registered_at=datetime.now(UTC)))
            leases.check(connection, lease)

    with pytest.raises(LeaseLostError):
        work()
    with store.read() as connection:
        assert connection.execute(sa.select(tables.companies)).all() == []


def test_the_same_holder_takes_its_lease_again_with_a_larger_fence(store):
    first = acquired(store)
    assert acquired(store).fence > first.fence


def test_the_fence_grows_whatever_the_clock_says(store):
    first = acquired(store)
    with store.write() as connection:
        connection.execute(tables.leases.update().values(fence=first.fence + 10**9))
    assert acquired(store).fence == first.fence + 10**9 + 1


def test_the_fence_grows_when_an_older_copy_of_the_store_is_restored(tmp_path):
    url = f"sqlite:///{tmp_path}/control.db"
    with closing(ControlStore(url)) as store:
        lease = acquired(store)
        for _ in range(3):
            leases.release(store, lease)
            lease = acquired(store)
    with closing(ControlStore(f"sqlite:///{tmp_path}/anew.db")) as store:
        threading.Event().wait(0.005)  # fences are milliseconds
        assert acquired(store).fence > lease.fence


def test_the_lease_of_a_process_that_has_died_is_free(store):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = leases.worker_name("publish").replace(f":{os.getpid()}:", f":{other.pid}:")
        acquired(store, holder)
        assert leases.acquire(store, "work", YOU) is None
        assert leases.holders(store) == {"work": holder}
        other.kill()
    assert leases.holders(store) == {}
    acquired(store, YOU)


def test_one_of_many_threads_holds_the_lease(store):
    inside = 0
    most = 0
    fences: list[int] = []
    lock = threading.Lock()

    def work(holder: str) -> None:
        nonlocal inside, most
        for _ in range(15):
            lease = leases.acquire(store, "work", holder)
            if lease is None:
                threading.Event().wait(0.001)
                continue
            with lock:
                inside += 1
                most = max(most, inside)
                fences.append(lease.fence)
            threading.Event().wait(0.001)
            with lock:
                inside -= 1
            leases.release(store, lease)

    threads = [threading.Thread(target=work, args=(f"worker@elsewhere:1:{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert fences == sorted(set(fences))


def test_one_of_many_processes_holds_the_lease(url):
    ControlStore(url).close()
    command = [sys.executable, "-W", "error", "-m", "lpm_stream_tests.control.worker", "compete", url]
    processes = [subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    spans = []
    for process in processes:
        spans += [tuple(map(int, line.split())) for line in process.communicate()[0].splitlines()]
        assert process.returncode == 0
    spans.sort()
    assert spans
    for (_, end, fence), (begin, _, next_fence) in pairwise(spans):
        assert end <= begin
        assert fence < next_fence


def test_workers_of_different_threads_have_different_names():
    names = {leases.worker_name("publish")}
    barrier = threading.Barrier(3)

    def note() -> None:
        names.add(leases.worker_name("publish"))
        barrier.wait()

    threads = [threading.Thread(target=note) for _ in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for thread in threads:
        thread.join()
    assert len(names) == 3
