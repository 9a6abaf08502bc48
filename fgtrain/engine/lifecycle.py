"""A run from its settings to its end: what may refuse it, what is said of it, and how it stops."""

import signal
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet

from .. import parallel
from ..objectives import Prepared
from ..place import open_shards
from ..runs.provenance import earlier, facts
from ..runs.rundir import RunDir
from ..settings.common import Config
from .monitor import Monitor
from .trainer import Trainer

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


def train(config: Config, name: str) -> Path:
    """Runs a config to its end, or to a stop signal and a checkpoint, and returns its run directory.

    InputError for anything a setting can cure. KeyboardInterrupt after the checkpoint where the signal was Ctrl-C: who
    typed it means whatever calls this too.
    """
    path, interrupted = config.machine.out or Path("runs") / name, False
    with parallel.group(config.machine.device) as device, ExitStack() as held:
        first = parallel.rank() == 0
        with parallel.together():
            shards = open_shards(config.data.shards)
            run = held.enter_context(RunDir.claim(path, config)) if first else RunDir(path)
            check_origin(run, shards)
            last = run.resume_point() if first else None
            opening = ""
            if run.facts:
                opening = "the run ended before its first checkpoint: it starts again"
            elif config.machine.resume:
                opening = f"nothing to continue in {path}: starting a new run"
        last = parallel.collect(last)[0]
        with parallel.together():
            # A run that goes on has its weights already; the file they once came from may be gone.
            trainer = Trainer(config if last is None else replace(config, init=None), run, shards, device)
            held.callback(trainer.loader.close)
            if last is not None:
                trainer.restore(last)
                opening = f"continued from step {trainer.step:,}"
            if first:
                run.start(config)
                parts = {"earlier": earlier(run.facts)} if last is not None else {}
                run.note(**facts(shards, device), **parts, name=name, status="running", reason=None)
                if trainer.objective.encoder.initial:
                    run.note(init=trainer.objective.encoder.initial)
                run.cut_metrics(trainer.step)
        try:
            watched, board = (run, config.machine.tensorboard) if first else (None, False)
            with Monitor(watched, trainer.step, trainer.total, trainer.steps_per_epoch, board) as monitor:
                status = work(trainer, monitor, name, opening, fresh=last is None)
        except BaseException as error:
            if first:
                with suppress(InputError):  # a full disk is told already
                    run.note(status="failed", step=trainer.step, reason=why(error))
                    for line in f"failed: {why(error)}".splitlines():
                        run.log(line)
            raise
        if first:
            run.note(status=status, step=trainer.step)
        interrupted = status == "stopped" and trainer.interrupted
    if interrupted:
        raise KeyboardInterrupt
    return path


def why(error: BaseException) -> str:
    """What ended a run, for those who read of it later."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, SystemExit):
        return "another process of this training was refused; what it printed says why"
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def work(trainer: Trainer, monitor: Monitor, name: str, opening: str, fresh: bool) -> str:
    """(all) What is said before, during and after the steps of a run -> its status."""
    config, run, shards = trainer.config, trainer.run, trainer.shards
    count = counted(len(shards.split(config.data.split)), "image")
    steps = f"{counted(config.epochs, 'epoch')} of {counted(trainer.steps_per_epoch, 'step')}"
    processes = f" x {trainer.world} processes" if trainer.world > 1 else ""
    monitor.say(f"{name}: {shards.path} ({count}), {steps}, {trainer.device}{processes}, {run.path}")
    if opening:
        monitor.say(opening)
    for line in trainer.remarks() if fresh else []:
        monitor.say(line)
    with stop_on_signal(trainer):
        if fresh and isinstance(trainer.objective, Prepared):
            with parallel.together():
                if trainer.first:
                    trainer.objective.prepare(run, shards, trainer.device, monitor.say, lambda: trainer.signalled)
        if parallel.any_of(trainer.signalled):
            status = "stopped"  # without a checkpoint: what was prepared is kept elsewhere, and goes on where it stood
        else:
            trainer.join()
            status = trainer.fit(monitor)
    where = quote(str(run.path))
    if status == "stopped":
        monitor.say(
            f"Stopped at step {trainer.step:,} of {trainer.total:,}. "
            f"Continue: {parallel.command()} run {name} --out {where} --resume"
        )
    else:
        monitor.say(f"Done. Look at it: fgtrain eval knn {where} --untrained")
    return status


def check_origin(run: RunDir, shards: ShardSet) -> None:
    """A run goes on with the set it began with, wherever that lies now, and with as many processes."""
    digest = shards.manifest["digest"]
    if (old := run.facts.get("shards", {}).get("digest", digest)) != digest:
        raise InputError(
            f"{run.path} was trained on a shard set with digest {old[:12]}, and {shards.path} has {digest[:12]}. "
            "Name the original set with --data.shards, or start a new run with another --out."
        )
    count, now = run.facts.get("processes"), parallel.world_size()
    if run.checkpoints and count not in (None, now):
        raise InputError(
            f"{run.path} was trained by {count} process{'es' if count > 1 else ''}, and this is {now}: it continues "
            f"with the same number only, torchrun --nproc-per-node {count}."
        )


@contextmanager
def stop_on_signal(trainer: Trainer):
    """SIGTERM, SIGUSR1 or Ctrl-C: stop at the next step with a checkpoint. A second one acts as it always does, but not
    under torchrun, where one is many: a terminal or scheduler sends it to every process, and torchrun passes it on."""

    def handle(caught: int, _frame: Any) -> None:
        trainer.signalled = True
        trainer.interrupted |= caught == signal.SIGINT
        if trainer.world == 1:
            signal.signal(caught, old[signal.Signals(caught)])

    old = {caught: signal.signal(caught, handle) for caught in STOP_SIGNALS}
    try:
        yield
    finally:
        for caught, handler in old.items():
            signal.signal(caught, handler)
