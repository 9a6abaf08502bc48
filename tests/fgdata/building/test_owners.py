"""Owner files keep processes apart on a file system whose locks do not reach other machines.

Another machine is simulated by owner files that a thread writes, or by a thread for which `_machine` gives another
name; `flock` then succeeds for everybody, as on NFS.
"""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from owner_files import from_afar, living
from shard_files import hashes

from fgdata.boxes.objective import Objective
from fgdata.building import build as building
from fgdata.building import rewrite
from fgdata.building.finish import finish
from fgdata.building.parts import Part
from fgdata.datasets import Archive, fetch
from fgdata.errors import InputError
from fgdata.files import lock, owners, swap
from fgdata.report.listing import print_listing


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(owners, "LEASE_SECONDS", 5.0)  # a live process is noticed within a tenth of it


@pytest.fixture
def dead_soon(monkeypatch):
    monkeypatch.setattr(owners, "LEASE_SECONDS", 0.2)


@pytest.fixture(autouse=True)
def local_locks(monkeypatch):
    """Locks that other machines do not see."""
    monkeypatch.setattr(lock, "_try_lock", lambda *_, **__: True)


def test_shards_of_a_live_process_on_another_machine_are_refused(build_part, tmp_path):
    with living(tmp_path / "set" / ".building") as path:
        assert build_part(part=Part(3, 4)).written > 0, "other shards are free"
        part = tmp_path / "set" / "train-000000.tar.01234567.part"
        part.touch()
        message = r"^process 42 on node7 is building these shards of .*/set; it began about [0-9]+ s ago\. .* kill 42\)"
        for given in (Part(0, 4), None):
            with pytest.raises(InputError, match=message):
                build_part(part=given)
        with pytest.raises(InputError, match=r"^process 42 on node7 is building"):
            finish(tmp_path / "set")
        assert path.exists()
        assert part.exists()


def test_a_dead_owner_is_replaced(build_part, tmp_path, direct, dead_soon, capsys):
    path = from_afar(tmp_path / "set" / ".building")
    assert build_part(part=Part(0, 2)).written > 0
    assert "Waiting 0 s" in capsys.readouterr().err
    assert not path.exists()
    path.write_bytes(b"{damaged")
    assert build_part().written > 0
    assert hashes(tmp_path / "set") == direct


def test_a_process_of_this_machine_is_judged_by_its_id_and_start(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    mine = {"host": "here", "machine": owners._machine(), "pid": os.getpid()}
    start = owners._state(os.getpid())[1]
    for values, alive in (
        ({"pid": int(dead.stdout)}, False),
        ({"started": start}, True),
        ({"started": "1"}, start == ""),  # its id was given to this process
        ({}, True),
    ):
        from_afar(tmp_path, **mine | values)
        assert (owners.find_live(tmp_path) is not None) == alive
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    from_afar(tmp_path, **mine | {"pid": child.pid})  # pyright: ignore
    assert owners.find_live(tmp_path) is None
    child.wait()


def test_a_message_names_who_and_since_when(monkeypatch):
    monkeypatch.setattr(owners, "BEAT_SECONDS", 10.0)
    ages = [owners._describe(owners.Owner("node7", "", 42, 0, 1, beat), "builds") for beat in (3, 60)]
    assert ["about 30 s ago" in ages[0], "about 10 min ago" in ages[1]] == [True, True]
    assert ages[0].startswith("process 42 on node7 builds; ")


def test_two_processes_of_one_machine_do_not_build_the_same_part(tmp_path):
    folder = tmp_path / ".building"
    with owners.owning(folder, "builds", 3, 6):
        with pytest.raises(InputError, match="builds; it began about 0 s ago"), owners.owning(folder, "builds", 5, 9):
            pass
        with owners.owning(folder, "builds", 6, 9):
            assert len(list((tmp_path / ".building").glob("*.owner"))) == 2
    assert not (tmp_path / ".building").exists()


def test_an_owner_file_that_was_never_finished_is_removed_at_the_end(tmp_path, monkeypatch):
    """Its process was killed while it wrote the file for the first time; a folder of such a name is not one."""
    monkeypatch.setattr(owners, "BEAT_SECONDS", 60.0)
    left = [
        f"{start}node7-42-00000000.owner.{token}.part" for start in ("", "ab-") for token in ("01234567", "89abcdef")
    ]
    with owners.owning(tmp_path / "set", "builds") as own:
        for name in left:
            (tmp_path / "set" / name).touch()
        renewed = own.with_name(f"{own.name}.01234567.part")
        renewed.touch()
        with owners.owning(tmp_path / "set", "reads", 0, 0):
            pass
        assert {path.name for path in (tmp_path / "set").iterdir()} == {own.name, renewed.name}
    assert not (tmp_path / "set").exists()
    kept = tmp_path / "set" / "x.owner.01234567.part"
    kept.mkdir(parents=True)
    with owners.owning(tmp_path / "set", "builds"):
        pass
    assert kept.exists()


def test_an_owner_file_that_was_taken_for_an_unfinished_one_is_written_again(tmp_path, monkeypatch):
    write, taken = owners.write_atomic, []

    def lose(path, data):
        if not taken:
            taken.append(path)
            raise FileNotFoundError(path)
        write(path, data)

    monkeypatch.setattr(owners, "write_atomic", lose)
    with owners.owning(tmp_path / "set", "builds") as own:
        assert taken == [own]
        assert owners._read(own).holds  # pyright: ignore[reportOptionalMemberAccess]


def test_a_folder_is_watched_without_waiting(tmp_path, monkeypatch):
    clock, watch = [100.0], owners.Watch()
    monkeypatch.setattr(owners.time, "monotonic", lambda: clock[0])
    assert not watch.is_owned(tmp_path / "none")
    for beat in (0, 1):
        path = from_afar(tmp_path, beat=beat)
        assert watch.is_owned(tmp_path), "it may live"
        clock[0] += 4.9
        assert watch.is_owned(tmp_path), "within the lease of 5 s"
    clock[0] += 0.2
    assert not watch.is_owned(tmp_path)
    path.unlink()
    mine = {"machine": owners._machine(), "started": owners._state(os.getpid())[1]}
    path = from_afar(tmp_path, **mine, pid=os.getpid())
    for _ in range(2):
        assert watch.is_owned(tmp_path), "a process of this machine needs no beat"
        clock[0] += 10
    from_afar(tmp_path, **mine | {"started": "1"}, pid=os.getpid())
    assert watch.is_owned(tmp_path) == (mine["started"] == "")


def test_of_two_that_start_at_once_one_goes_on(tmp_path, monkeypatch):
    """Each thread is a machine, and each sees the file of the other."""
    monkeypatch.setattr(owners, "_machine", lambda: threading.current_thread().name)
    both, refused, outcomes, find = threading.Barrier(2, timeout=60), threading.Event(), [], owners.find_live

    def start():
        try:
            with owners.owning(tmp_path / "set", "builds"):
                outcomes.append("owns")
                assert refused.wait(60)
        except InputError:
            outcomes.append("refused")
            refused.set()

    def find_both(*given):
        both.wait()
        return find(*given)

    monkeypatch.setattr(owners, "find_live", find_both)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owns", "refused"]


def test_a_build_on_one_machine_keeps_out_those_on_another(build_part, tmp_path, direct, monkeypatch):
    """Each thread is a machine. The first one builds until the others were refused."""
    monkeypatch.setattr(owners, "_machine", lambda: threading.current_thread().name)
    reached, go_on, find = threading.Event(), threading.Event(), building.find_damaged

    def wait(*given):
        reached.set()
        assert go_on.wait(60)
        return find(*given)

    monkeypatch.setattr(building, "find_damaged", wait)
    first = threading.Thread(target=build_part, name="node1")
    first.start()
    assert reached.wait(60)

    def left() -> set[Path]:
        return {path for path in (tmp_path / "set").rglob("*") if ".owner" not in path.name}

    before = left()
    try:
        for given in (None, Part(1, 2)):
            with pytest.raises(InputError, match=f"^process {os.getpid()} on .* is building these shards"):
                build_part(part=given)
        assert left() == before
    finally:
        go_on.set()
        first.join()
    assert hashes(tmp_path / "set") == direct
    assert not (tmp_path / "set" / ".building").exists()


def test_files_of_a_process_that_took_over_are_kept(build_part, tmp_path, direct, monkeypatch):
    """This machine was silent for longer than the lease; another one builds when this one finishes the set."""
    find, others = building.find_damaged, []
    part, plan = tmp_path / "set" / "train-000000.tar.01234567.part", tmp_path / "set" / ".building" / "plan.json"
    with ExitStack() as stack:

        def take_over(*given):
            others.append(stack.enter_context(living(plan.parent)) if not others else others[0])
            part.touch()
            return find(*given)

        monkeypatch.setattr(building, "find_damaged", take_over)
        assert build_part().written == 48
        assert all(path.exists() for path in (part, plan, others[0]))
        assert build_part().was_complete
        assert all(path.exists() for path in (part, plan, others[0]))
    others[0].unlink()
    assert build_part().was_complete
    assert hashes(tmp_path / "set") == direct
    assert not plan.parent.exists()


def test_a_process_that_waits_for_others_does_not_keep_leftovers(build_part, tmp_path):
    with living(tmp_path / "set" / ".building", holds=False, first=100, end=101):
        build_part()
    assert not (tmp_path / "set" / ".building" / "plan.json").exists()


@pytest.mark.parametrize("name", ["rebox", "add"])
def test_a_set_that_another_machine_rewrites_is_refused(copy, tmp_path, name, capsys):
    def change(**given):
        if name == "rebox":
            return rewrite.rebox(copy, Objective(tau=0.5), **given)
        return rewrite.add(copy, "vsf", **given)

    half = tmp_path / ".new" / "set" / "train-000000.tar"
    half.parent.mkdir(parents=True)
    half.touch()
    before = hashes(copy)
    with living(half.parent.parent, swap._owner_prefix("set")) as path:
        with pytest.raises(InputError, match=f"^process 42 on node7 is writing {copy}; it began"):
            change()
        assert half.exists()
        assert path.exists()
        assert hashes(copy) == before
        change(out=tmp_path / "other")
        print_listing(tmp_path)
        assert "process 42 on node7 began to write set. If it no longer runs" in capsys.readouterr().out
    path.unlink()
    change()
    assert hashes(copy) == hashes(tmp_path / "other")
    assert not (tmp_path / ".new").exists()


def test_a_download_of_another_machine_is_not_disturbed(tmp_path):
    archives = (Archive("http://127.0.0.1:9/a.zip", "0" * 32),)
    with living(tmp_path / "cub" / ".download" / ".downloading") as path:
        message = r"^process 42 on node7 is downloading to .*/cub/\.download; it began about [0-9]+ s ago\. Wait"
        with pytest.raises(InputError, match=message):
            fetch.download("cub", tmp_path / "cub", archives)
        assert path.exists()
