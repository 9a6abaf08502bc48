"""A second stop signal: SIGTERM, SIGUSR1 and SIGHUP never lose the checkpoint; a second Ctrl-C ends the run at once."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trainable import final, small

from fgtrain import cli
from fgtrain.engine import checkpointing, lifecycle, signals
from fgtrain.engine.monitor import Monitor
from fgtrain.engine.trainer import Trainer
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.file import to_dict

PATIENT = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """A signal that the run does not handle fails the test; by default it would end the test process."""

    def fail(number: int, _frame: object) -> None:
        raise AssertionError(f"{signal.Signals(number).name} had its usual effect")

    before = {number: signal.signal(number, fail) for number in PATIENT}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is fail  # the run has restored it
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def before_method(patch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], None]) -> None:
    method = getattr(owner, name)

    def first_act(self, *words, **options):
        action()
        return method(self, *words, **options)

    patch.setattr(owner, name, first_act)


def at_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    step = Trainer.train_step

    def step_and_act(self, batch):
        step(self, batch)
        if self.step == number:
            action()

    patch.setattr(Trainer, "train_step", step_and_act)


@pytest.mark.parametrize("number", PATIENT)
def test_a_second_signal_does_not_lose_the_checkpoint(number: signal.Signals, drawn_set: Path, tmp_path: Path):
    """Two within the step, one as the checkpoint begins, one while it is written, one before the status is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, lambda: send(number, number))
        before_method(patch, checkpointing, "save", lambda: send(number))
        before_method(patch, RunDir, "save_checkpoint", lambda: send(number))
        before_method(patch, Monitor, "__exit__", lambda: send(number))
        run = lifecycle.train(small(drawn_set, tmp_path / "run"), "cvsa")
    facts = RunDir(run).facts
    assert (facts["status"], facts["step"], final(run)["step"]) == ("stopped", 3, 3)


def main(drawn_set: Path, run: Path) -> int:
    write_json(run.parent / "config.json", to_dict(small(drawn_set, run)))
    return cli.main(["run", "cvsa", "--config", str(run.parent / "config.json"), "--out", str(run)])


@pytest.mark.parametrize(("owner", "name"), [(cli, "read_defaults"), (Trainer, "__init__"), (Trainer, "remarks")])
def test_a_signal_before_the_first_step_ends_the_run_and_resume_starts_it(
    owner: Any, name: str, drawn_set: Path, tmp_path: Path, capfd
):
    """While the command line is read; while the networks are built; as the decoder's warm-up is about to begin."""
    recipe = "synth-pair" if name == "remarks" else "cvsa"
    config = small(drawn_set, tmp_path / "run", recipe)
    write_json(tmp_path / "config.json", to_dict(config))
    words = ["run", recipe, "--out", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *given, **rest: send(signal.SIGTERM) or original(*given, **rest))
        assert cli.main([*words, "--config", str(tmp_path / "config.json")]) == 0
    facts = RunDir(tmp_path / "run").facts
    assert (facts["status"], facts["step"], RunDir(tmp_path / "run").last_checkpoint) == ("stopped", 0, None)
    said = capfd.readouterr().out
    assert f"Stopped at step 0 of {2 * 4}. Resume: fgtrain run {recipe} --out" in said
    assert "Decoder warm-up" not in said
    if owner is cli:
        assert cli.main([*words, "--resume"]) == 0
        assert RunDir(tmp_path / "run").facts["status"] == "done"


def fail(error: BaseException) -> Any:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize(
    ("owner", "name", "hint"),
    [
        (cli, "read_defaults", "Nothing was trained yet; rerun the command."),
        (Trainer, "__init__", "Nothing was trained yet; rerun the command."),
        (Trainer, "remarks", "It has no checkpoint yet; to start again, rerun the command with --resume."),
    ],
)
def test_a_run_that_ends_before_its_first_checkpoint_does_not_promise_one(
    owner: Any, name: str, hint: str, error: BaseException, drawn_set: Path, tmp_path: Path, capfd
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail(error))
        assert main(drawn_set, tmp_path / "run") == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert capfd.readouterr().err.endswith(f" {hint}\n")
    words = ["run", "cvsa", "--out", str(tmp_path / "run"), "--resume"] if "--resume" in hint else None
    assert (cli.main(words) if words else main(drawn_set, tmp_path / "run")) == 0


def test_a_run_that_ends_after_a_checkpoint_names_it(drawn_set: Path, tmp_path: Path, capfd):
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, fail(MemoryError()))
        assert main(drawn_set, tmp_path / "run") == 2
    assert "To resume from the last checkpoint, rerun the command with --resume." in capfd.readouterr().err


def test_a_signal_that_comes_before_the_handlers_is_noted_when_they_are_there():
    signals.hold_back()
    signal.raise_signal(signal.SIGTERM)  # to this thread: those of earlier tests do not hold it back
    with signals.StopSignals() as stop:
        assert not stop.came
        stop.catch(signals.PATIENT)
        assert stop.came
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [("run cvsa", True), ("--plugin m run x", True), ("--plugin=m run x", True), ("eval knn run", False), ("", False)],
)
def test_only_trainings_delay_signals(words: str, expected: bool):
    assert signals.is_training(words.split()) == expected


def test_two_ctrl_c_of_one_press_write_the_checkpoint(drawn_set: Path, tmp_path: Path, clock: list[float], capfd):
    """The terminal sends one, and a program that started fgtrain passes on another."""

    def press_twice() -> None:
        send(signal.SIGINT)
        clock[0] += 0.02
        send(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, press_twice)
        assert main(drawn_set, tmp_path / "run") == 130
    assert (RunDir(tmp_path / "run").facts["status"], final(tmp_path / "run")["step"]) == ("stopped", 3)
    printed, errors = capfd.readouterr()
    assert errors.count("Press Ctrl-C again") == 1
    assert (printed + errors).lower().count("stopped") == 1


def test_a_second_ctrl_c_ends_the_run_at_once_and_keeps_the_last_checkpoint(
    drawn_set: Path, tmp_path: Path, clock: list[float]
):
    def press_again() -> None:
        clock[0] += 2
        send(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, lambda: send(signal.SIGINT, signal.SIGTERM))
        before = RunDir.save_checkpoint

        def save(self, step, *words):
            if step > 4:  # the last complete one
                press_again()
                raise AssertionError("not reached")
            return before(self, step, *words)

        patch.setattr(RunDir, "save_checkpoint", save)
        assert main(drawn_set, tmp_path / "run") == 130
    facts = RunDir(tmp_path / "run").facts
    assert (facts["status"], facts["step"], final(tmp_path / "run")["step"]) == ("failed", 6, 4)
    assert "second Ctrl-C" in facts["reason"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_under_torchrun_a_second_ctrl_c_has_no_effect(clock: list[float]):
    with signals.StopSignals() as stop:
        stop.catch()
        for _ in range(3):
            clock[0] += 10
            send(signal.SIGINT)
    assert (stop.came, stop.interrupted) == (True, True)
