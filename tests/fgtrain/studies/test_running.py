"""The order in which jobs run, what a failure stops, and what a stop signal does, without real processes."""

import itertools
import signal
from pathlib import Path

import pytest
from owner_files import from_afar

from fgdata.errors import InputError
from fgdata.files import owners
from fgtrain.engine import signals
from fgtrain.engine.signals import StopSignals
from fgtrain.runs.rundir import OWNERS
from fgtrain.studies import running
from fgtrain.studies.plan import Job


class Fake:
    """A process that ends after some polls, or when it is terminated."""

    def __init__(self, polls: int, code: int = 0):
        self.polls, self.code, self.signals = polls, code, []

    def poll(self) -> int | None:
        self.polls -= 1
        return self.code if self.polls < 0 else None

    def terminate(self) -> None:
        self.signals.append("term")
        self.polls = min(self.polls, 1)

    def kill(self) -> None:
        self.signals.append("kill")
        self.polls, self.code = 0, -9


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    monkeypatch.setattr(running, "POLL", 0.0)


def jobs(tmp_path: Path) -> list[Job]:
    first = Job(tmp_path / "first", 0)
    rest = [Job(tmp_path / name, 0, needs=needs) for name, needs in (("a", None), ("b", first.folder), ("c", None))]
    return [rest[1], first, rest[0], rest[2]]


def run(every: list[Job], processes: dict[str, Fake], workers: int, stop=None, report=None, complete=()):
    order, most = [], [0]

    def launch(job: Job, words: list[list[str]], slot: int) -> Fake:
        order.append((job.name, slot))
        return processes.setdefault(job.name, Fake(3))

    def count(active: list[Job], left: int) -> None:
        most[0] = max(most[0], len(active))
        if report:
            report(active, left)

    failed = running.run(
        every, lambda job: [] if job.name in complete else [["run"]], launch, workers, count, stop or StopSignals()
    )
    return order, most[0], {folder.name: why for folder, why in failed.items()}


def test_a_first_stage_runs_before_the_job_that_needs_it(tmp_path: Path):
    order, most, failed = run(jobs(tmp_path), {}, workers=2)
    names = [name for name, _ in order]
    assert sorted(names) == ["a", "b", "c", "first"]
    assert names.index("first") < names.index("b")
    assert most == 2
    assert {slot for _, slot in order} == {0, 1}
    assert not failed


def test_a_complete_job_is_not_started(tmp_path: Path):
    order, _, _ = run(jobs(tmp_path), {}, workers=1, complete=("first", "a"))
    assert [name for name, _ in order] == ["b", "c"]


def test_a_failure_stops_only_what_needs_it(tmp_path: Path):
    order, _, failed = run(jobs(tmp_path), {"first": Fake(1, 2)}, workers=2)
    assert "b" not in [name for name, _ in order]
    assert failed == {"first": "exit code 2", "b": "its first stage first failed"}
    (tmp_path / "first.log").write_text("$ fgtrain run\nfgtrain: the disk is full\n")
    with pytest.raises(InputError, match="first: fgtrain: the disk is full.*exit code 2"):
        running.check_failures({tmp_path / "first": "exit code 2"}, tmp_path)


def test_a_folder_in_which_another_machine_trains_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`first` is trained elsewhere and ends; `a` is too, and its machine dies; `c` is taken when the process starts."""
    clock, finished, refusals = itertools.count(), [], []
    monkeypatch.setattr(owners.time, "monotonic", lambda: float(next(clock)))
    for name in ("first", "a"):
        from_afar(tmp_path / name / OWNERS)
    order = []

    def launch(job: Job, *_) -> Fake:
        order.append(job.name)
        refused = job.name == "c" and not refusals
        if refused:
            refusals.append(from_afar(tmp_path / "c" / OWNERS))
        return Fake(1, 2 if refused else 0)

    def report(active: list[Job], left: int) -> None:
        if len(order) == 1 and not finished and not active:
            finished.append("first")
            (tmp_path / "first" / OWNERS / "node7-42-00000000.owner").unlink()

    failed = running.run(
        jobs(tmp_path), lambda job: [] if job.name in finished else [["run"]], launch, 1, report, StopSignals()
    )
    assert not failed
    assert order[0] == "c"
    assert sorted(order[1:]) == ["a", "b", "c"], "each once more: `first` never, `c` after its refusal"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_terminates_each_process_once_and_starts_no_other(number: int, tmp_path: Path):
    stop = StopSignals()
    processes = {"first": Fake(1000), "a": Fake(1000)}
    first_time = iter([True])
    order, _, failed = run(
        jobs(tmp_path), processes, 2, stop, lambda *_: stop.handle(number, None) if next(first_time, None) else None
    )
    assert [name for name, _ in order] == ["first", "a"]
    assert [process.signals for process in processes.values()] == [["term"], ["term"]]
    assert not failed, "a stopped run has not failed"


def test_a_second_ctrl_c_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stop, processes = StopSignals(), {"first": Fake(1000)}
    processes["first"].terminate = lambda: None
    clock = itertools.count()
    monkeypatch.setattr(signals.time, "monotonic", lambda: float(next(clock)))
    run(jobs(tmp_path), processes, 1, stop, lambda *_: stop.handle(signal.SIGINT, None))
    assert "kill" in processes["first"].signals


def test_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert running.share(3, 0, "cpu", 16) == ({"OMP_NUM_THREADS": "5"}, 5)
    assert running.share(4, 3, "cpu", 2) == ({"OMP_NUM_THREADS": "1"}, 1)
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [running.share(4, slot, "auto", 8)[0]["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["4", "7", "4", "7"]
