"""The fleet folder: who is alive, seen from another process; waking; killing what remains."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from tests.unit.processes import Other, other

from failbetter.fleet import Bell, Fleet, kill_session, pid_space

HOLDER = """
    import sys
    from pathlib import Path
    from failbetter.fleet import Fleet
    fleet = Fleet(Path(sys.argv[1]))
    lock = fleet.hold(int(sys.argv[2]))
    print("held")
    sys.stdin.readline()
    lock.close()
    print("let go")
    sys.stdin.readline()
"""


def eventually(what: Callable[[], bool], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "fleet")
    yield made
    made.close()


# -- the folder


def test_every_process_sees_the_same_id(fleet: Fleet) -> None:
    program = "import sys; from pathlib import Path; from failbetter.fleet import Fleet;"
    program += " print(Fleet(Path(sys.argv[1])).id)"
    with other(program, fleet.folder) as one:
        assert one.hear() == fleet.id


def test_many_at_once_agree_on_the_id(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        found.append(Fleet(tmp_path / "new").id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"id"}


def test_folders_have_different_ids(tmp_path: Path) -> None:
    assert Fleet(tmp_path / "a").id != Fleet(tmp_path / "b").id


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Fleet(tmp_path / "file")


# -- life and death


def test_a_held_lock_is_a_live_worker(fleet: Fleet) -> None:
    with other(HOLDER, fleet.folder, 7) as holder:
        assert holder.hear() == "held"
        assert not fleet.is_dead(7)
        holder.tell()
        assert holder.hear() == "let go"
        assert fleet.is_dead(7)


def test_a_killed_worker_is_dead_at_once(fleet: Fleet) -> None:
    with other(HOLDER, fleet.folder, 7) as holder:
        holder.hear()
        assert not fleet.is_dead(7)
        holder.kill()
        assert fleet.is_dead(7)


def test_a_stopped_process_is_not_dead(fleet: Fleet) -> None:
    with other(HOLDER, fleet.folder, 7) as holder:
        holder.hear()
        psutil.Process(holder.process.pid).suspend()
        assert not fleet.is_dead(7)


def test_looking_does_not_take_the_lock(fleet: Fleet) -> None:
    with other(HOLDER, fleet.folder, 7) as holder:
        holder.hear()
        holder.kill()
        assert fleet.is_dead(7)
        assert fleet.is_dead(7)


def test_a_child_of_the_holder_does_not_keep_it_alive(fleet: Fleet) -> None:
    """The lock must not be inherited: a body's own process may outlive the supervisor."""
    program = HOLDER.replace(
        'print("held")',
        'import subprocess; child = subprocess.Popen(["sleep", "60"]); print(child.pid)',
    )
    with other(program, fleet.folder, 7) as holder:
        child = int(holder.hear())
        try:
            assert not fleet.is_dead(7)
            holder.kill()
            assert fleet.is_dead(7)
        finally:
            os.kill(child, 9)


def test_a_lock_file_that_is_not_there_proves_nothing(fleet: Fleet) -> None:
    assert not fleet.is_dead(12345)


def test_a_lock_file_that_cannot_be_seen_proves_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.hold(7).close()

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert not fleet.is_dead(7)


def test_forgetting_removes_all_there_was(fleet: Fleet) -> None:
    fleet.hold(7).close()
    fleet.board_path(7).write_bytes(b"")
    receiver = fleet.open_bell(7)
    assert receiver is not None
    receiver.close()
    fleet.hold(8).close()
    fleet.forget(7)
    fleet.forget(7)
    assert {path.name for path in fleet.folder.iterdir()} == {"id", "8.lock"}


# -- waking


def rung(bell: Bell, within: float = 5.0) -> bool:
    if not select.select([bell.receiver], [], [], within)[0]:
        return False
    bell.drain()
    return True


@pytest.fixture
def bells(fleet: Fleet) -> Iterator[Callable[..., list[Bell]]]:
    """Makes bells of so many workers."""
    made: list[Bell] = []

    def make(*numbers: int, picky: bool = False) -> list[Bell]:
        found = [bell for number in numbers if (bell := fleet.open_bell(number, picky=picky))]
        made.extend(found)
        return found

    yield make
    for bell in made:
        bell.close()


def test_a_producer_wakes_every_worker(fleet: Fleet, bells: Callable[..., list[Bell]]) -> None:
    opened = [*bells(1, 2), *bells(3, picky=True)]
    with closing(Fleet(fleet.folder)) as producer:
        producer.wake()
    assert all(rung(bell) for bell in opened)


def test_for_a_single_job_only_two_are_woken(
    fleet: Fleet, bells: Callable[..., list[Bell]]
) -> None:
    opened = bells(*range(10))
    times = Counter[int]()
    for _ in range(100):
        fleet.wake(1)
        heard = [at for at, bell in enumerate(opened) if rung(bell, 0)]
        assert len(heard) == 2
        times.update(heard)
    assert len(times) == 10
    fleet.wake(4)
    assert sum(rung(bell, 0) for bell in opened) == 5
    fleet.wake(100)
    assert all(rung(bell, 0) for bell in opened)


def test_who_does_not_take_every_job_is_always_woken(
    fleet: Fleet, bells: Callable[..., list[Bell]]
) -> None:
    others = bells(*range(5))
    picky = bells(*range(10, 15), picky=True)
    fleet.wake(1)
    assert all(rung(bell, 0) for bell in picky)
    assert sum(rung(bell, 0) for bell in others) == 2
    assert not picky[0].work()
    fleet.wake(1)
    assert rung(picky[0], 0)


def test_who_has_all_it_can_do_is_not_woken(fleet: Fleet, bells: Callable[..., list[Bell]]) -> None:
    busy, other = bells(1, 2)
    assert busy.work()
    assert not busy.work()
    fleet.wake()
    assert not rung(busy, 0)
    assert rung(other, 0)
    assert busy.rest()
    assert not busy.rest()
    fleet.wake()
    assert rung(busy, 0)
    assert rung(other, 0)
    busy.work()
    fleet.forget(1)
    assert {path.name for path in fleet.folder.iterdir()} == {"id", "2.wake"}
    assert busy.rest()  # although its folder was cleaned up


def test_in_place_of_the_dead_and_the_deaf_others_are_woken(
    fleet: Fleet, bells: Callable[..., list[Bell]]
) -> None:
    dead = bells(*range(8))
    for bell in dead[:4]:
        bell.close()
    for _ in range(1_000):  # far more than a socket holds
        for number in range(4, 8):
            fleet._ring(str(fleet.folder / f"{number}.wake"))
    last = bells(8)[0]
    fleet.wake(1)
    assert rung(last, 0)


def test_a_worker_that_comes_later_is_woken_too(
    fleet: Fleet, bells: Callable[..., list[Bell]]
) -> None:
    """However soon after the last look: the folder's time alone may not tell them apart."""
    with closing(Fleet(fleet.folder)) as producer:
        for number in range(50):
            producer.wake()
            (bell,) = bells(number)
            producer.wake()
            assert rung(bell, 0.5), f"worker {number} was not woken"
            bell.work()
            bell.rest()
            producer.wake()
            assert rung(bell, 0.5), f"worker {number} was not woken again"
            bell.close()


def test_waking_never_blocks_and_never_raises(
    fleet: Fleet, bells: Callable[..., list[Bell]]
) -> None:
    (bell,) = bells(1)
    started = time.monotonic()
    for _ in range(2_000):  # far more than a socket holds
        fleet.wake()
    bell.close()
    fleet.wake()  # the socket's file is there, nobody listens
    fleet.folder.rename(fleet.folder.with_name("gone"))
    fleet.wake()
    assert time.monotonic() - started < 5


def test_a_folder_too_deep_for_a_socket(tmp_path: Path) -> None:
    deep = Fleet(tmp_path / ("x" * 100))
    assert deep.open_bell(1) is None
    deep.wake()


# -- taking turns

TAKER = """
    import sys
    from pathlib import Path
    from failbetter.fleet import Fleet
    turn = Fleet(Path(sys.argv[1])).turn()
    for line in sys.stdin:
        word, now = line.split()
        print(turn.take(float(now)) if word == "take" else turn.leave())
"""


def test_so_many_at_a_time_have_a_place(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    program = "import os; os.cpu_count = lambda: 1\n" + textwrap.dedent(TAKER)
    with (
        other(program, fleet.folder) as one,
        other(program, fleet.folder) as two,
        closing(fleet.turn()) as ours,
    ):

        def take(who: Other, now: float) -> str:
            who.tell(f"take {now}")
            return who.hear()

        assert [take(one, 0.0), take(two, 0.0)] == ["True", "True"]
        assert not ours.take(0.0)
        two.tell("leave 0")
        assert two.hear() == "None"
        assert not ours.take(0.05), "it tries again too soon"
        assert ours.take(0.2)
        assert ours.take(1.1)
        assert take(one, 0.9) == "True"
        assert take(one, 1.1) == "False", "it has had its place for a second"
        assert take(two, 0.0) == "True"
        assert take(one, 1.3) == "False"
        two.kill()
        assert take(one, 1.5) == "True"


# -- what remains of a dead worker

FAMILY = """
    import os, subprocess, sys, time
    os.setsid()
    own = subprocess.Popen(["sleep", "60"])
    apart = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(os.getpid(), own.pid, apart.pid)
    time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_session_is_killed_whole_and_nobody_else() -> None:
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            assert kill_session(leader) == 2
            assert eventually(lambda: gone(leader) and gone(own))
            assert not gone(apart)
        finally:
            os.kill(apart, 9)


def test_grandchildren_are_found_after_their_leader_died() -> None:
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            family.kill()
            assert not gone(own)
            assert kill_session(leader) == 1
            assert eventually(lambda: gone(own))
        finally:
            os.kill(apart, 9)


def test_a_reused_number_is_not_killed() -> None:
    """A session that began before the child did is somebody else's."""
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            assert kill_session(leader, not_before=time.time() + 10) == 0
            assert not gone(leader)
        finally:
            os.kill(own, 9)
            os.kill(apart, 9)


def test_nobody_is_left_to_kill() -> None:
    done = subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)
    done.wait()
    assert kill_session(done.pid) == 0


def test_the_remains_of_a_dead_worker_are_killed_from_its_notes(fleet: Fleet) -> None:
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            lock = fleet.hold(7)
            lock.note_child(leader, time.time())
            lock.close()
            with fleet.lock_path(7).open("a") as file:
                file.write('{"session": 1')  # it died while it wrote
            assert fleet.kill_remains(7) == 2
            assert eventually(lambda: gone(own))
        finally:
            os.kill(apart, 9)


def test_notes_from_another_pid_space_mean_nothing_here(fleet: Fleet) -> None:
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            lock = fleet.hold(7)
            lock.note_child(leader, time.time())
            lock.close()
            path = fleet.lock_path(7)
            path.write_text(path.read_text().replace(pid_space(), "pid:[1]"))
            assert fleet.kill_remains(7) == 0
            assert not gone(leader)
        finally:
            os.kill(own, 9)
            os.kill(apart, 9)


def test_a_worker_without_notes(fleet: Fleet) -> None:
    assert fleet.kill_remains(99) == 0


def test_a_stranger_of_the_same_number_is_left_alone(fleet: Fleet) -> None:
    """The worker died long ago, its child too, and the number is another process's by now."""
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            lock = fleet.hold(7)
            lock.note_child(leader, time.time())
            lock.close()
            path = fleet.lock_path(7)
            note = json.loads(path.read_text())
            path.write_text(json.dumps({**note, "born": note["born"] - 100}) + "\n")
            assert fleet.kill_remains(7) == 0
            assert not gone(leader)
            path.write_text(json.dumps(note) + "\n")
            assert fleet.kill_remains(7) == 2
        finally:
            for pid in (own, apart):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def test_notes_of_an_earlier_boot_mean_nothing(fleet: Fleet) -> None:
    """A host that came back counts its processes from the beginning."""
    with other(FAMILY) as family:
        leader, own, apart = map(int, family.hear().split())
        try:
            lock = fleet.hold(7)
            lock.note_child(leader, time.time())
            lock.close()
            path = fleet.lock_path(7)
            boot = pid_space().split()[0]
            path.write_text(path.read_text().replace(boot, "another-boot"))
            assert fleet.kill_remains(7) == 0
            assert not gone(leader)
        finally:
            os.kill(own, 9)
            os.kill(apart, 9)


def test_a_baton_is_for_one_at_a_time_and_tells_who_had_it(fleet: Fleet) -> None:
    first, second = fleet.baton("work"), fleet.baton("work")
    assert first.take(1) == set()
    assert second.take(2) is None
    assert not fleet.let_go("work", 1)
    first.close()  # as its death would
    assert fleet.let_go("work", 1)
    assert not fleet.let_go("work", 2)
    assert second.take(2) == {1}
    second.sign_alone(2)
    second.close()
    third = fleet.baton("work")
    assert third.take(3) == {2}
    third.close()
    assert not fleet.let_go("nothing", 1)
