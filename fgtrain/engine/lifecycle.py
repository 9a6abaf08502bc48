"""One training run from its settings to its end: checks, start or resume, messages, stop signals."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote

import torch

from fgdata import plugins
from fgdata.errors import InputError, ReportedStop, counted
from fgdata.shards.reader import ShardSet
from fgdata.stores.place import Url, place

from .. import parallel
from ..evaluate.labels import Chosen
from ..objectives import Prepared
from ..place import open_shards
from ..runs.provenance import describe_run, earlier_parts, recorded_set
from ..runs.rundir import RunDir
from ..runs.state import load_state
from ..settings.common import NEIGHBOURS, Config
from . import checkpointing
from .monitor import Monitor
from .needs import choose_images
from .signals import PATIENT, StopSignals
from .trackers import Trackers, check_trackers
from .trainer import Trainer


def train(config: Config, name: str, signals: StopSignals | None = None) -> Path:
    """Trains until the end, or until a stop signal and a checkpoint, and returns the run directory.

    config: all settings. name: the recipe, which is also the run's folder under runs/ unless config.machine.out is set.
    signals: those that have come since the command began. A stop signal before the first step ends the run there.
    InputError for anything that other settings can fix. ReportedStop, a KeyboardInterrupt, after the checkpoint if the
    signal was Ctrl-C, so that the caller stops too.

        run = train(RECIPES["cvsa"](), "cvsa")
    """
    path, interrupted = config.machine.out or Path("runs") / name, False
    with refusals_noted(config, path), parallel.group(config.machine.device) as device, ExitStack() as stack:
        torch.backends.cudnn.benchmark = device.type == "cuda"  # batches have one size, so its trials pay
        first = parallel.rank() == 0
        # First, so that it ends last: until then the run is not finished.
        signals = stack.enter_context(signals or StopSignals())
        signals.raises = parallel.world_size() == 1
        signals.catch(PATIENT)
        with parallel.together():
            check_trackers(config)
            named, data = named_set(config, path), config.data
            own = isinstance(named, Url) or not data.lent_from_afar  # else the folder is for the backgrounds only
            opened = open_shards(named, data.cache_dir if own else None, data.cache_gb)
            shards = choose_images(config, opened)
            run = stack.enter_context(RunDir.claim(path, config)) if first else RunDir(path)
            check_origin(run, shards)
            before, edited = run.facts.get("processes"), plugins.describe_changed(run.facts.get("plugins"))
            last = run.resume_point() if first else None
            opening = ""
            if run.facts:
                opening = "the run ended before its first checkpoint: starting again"
            elif config.machine.resume:
                opening = f"nothing to resume in {path}: starting a new run"
        last = parallel.collect(last)[0]
        with parallel.together():
            source = checkpointing.find_extended(config.extend) if last is None and config.extend is not None else last
            state = load_state(source) if source else {}
            if last:
                run.check_unchanged(config, state.get("settings"), last)
            try:
                trainer = Trainer(config, run, shards, device, signals, state)
            except InputError as error:
                raise InputError(f"{opening}. {error}" if opening else str(error)) from error
            stack.callback(trainer.loader.close)
            if last is not None:
                checkpointing.restore(trainer, state, last)
                opening = f"resumed from step {trainer.step:,}"
                if before not in (None, trainer.world):
                    number = "1 process" if trainer.world == 1 else f"{trainer.world} processes"
                    opening += (
                        f" with {number} instead of {before}: from here on the results differ slightly from those of "
                        "an uninterrupted run"
                    )
                if edited:
                    opening += f"; {edited} since the run was last started, so from here on its results may differ"
            elif source is not None:
                opening = checkpointing.extend(trainer, state, source)
            if first:
                run.start(config)
                parts = {"earlier": earlier_parts(run.facts)} if last is not None else {}
                listed = {"labels": shards.setting} if isinstance(shards, Chosen) else {}
                facts = describe_run(shards, device) | listed | parts | {"total": trainer.total}
                run.note(**facts, name=name, status="running", reason=None)
                if trainer.objective.encoder.initial:
                    run.note(init=trainer.objective.encoder.initial)
                run.cut_metrics(trainer.step)
        try:
            monitored, trackers = (run, Trackers(run, config, trainer.step)) if first else (None, None)
            with Monitor(monitored, trainer.step, trainer.total, trainer.steps_per_epoch, trackers) as monitor:
                signals.catch()
                status = run_training(trainer, monitor, name, opening, fresh=last is None)
                monitor.status = status
        except BaseException as error:
            if first:
                with suppress(InputError):  # a full disk, which is reported already
                    run.note(status="failed", step=trainer.step, reason=describe_failure(error))
                    for line in f"failed: {describe_failure(error)}".splitlines():
                        run.log(line)
            raise
        if first:
            run.note(status=status, step=trainer.step)
        interrupted = status == "stopped" and signals.interrupted
    if interrupted:
        raise ReportedStop
    return path


def named_set(config: Config, path: Path) -> Path | Url | None:
    """The set of --data.shards. A resumed run whose settings name none, or a folder that is not there (the command was
    started elsewhere), has the place that run.json records."""
    named = config.data.shards
    if config.machine.resume and not isinstance(named, Url) and (named is None or not named.exists()):
        recorded = recorded_set(RunDir(path)).get("path")
        return place(recorded) if recorded else named
    return named


@contextmanager
def refusals_noted(config: Config, path: Path) -> Iterator[None]:
    """A stopped run whose resume is refused becomes a failed one, whatever the reason: a scheduler requeues a run as
    long as run.json says "stopped"."""
    try:
        yield
    except Exception as error:
        if config.machine.resume:
            RunDir(path).refuse(describe_failure(error))
        raise


def describe_failure(error: BaseException) -> str:
    """Why a run ended, for run.json and log.txt."""
    if isinstance(error, InputError):
        return str(error)
    if parallel.is_lost_process(error):
        return parallel.LOST_PROCESS
    if isinstance(error, KeyboardInterrupt):
        return "ended at once by a second Ctrl-C; the last complete checkpoint is kept"
    if isinstance(error, SystemExit):
        return "another process of this run failed; see its output for the reason"
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def run_training(trainer: Trainer, monitor: Monitor, name: str, opening: str, fresh: bool) -> str:
    """(all) Trains and reports progress -> the run's status, "done" or "stopped"."""
    config, run, shards = trainer.config, trainer.run, trainer.shards
    count = counted(len(shards.split(config.data.split)), "image")
    steps = f"{counted(config.epochs, 'epoch')} of {counted(trainer.steps_per_epoch, 'step')}"
    processes = f" x {trainer.world} processes" if trainer.world > 1 else ""
    monitor.say(f"{name}: {shards.path} ({count}), {steps}, {trainer.device}{processes}, {run.path}")
    if opening:
        monitor.say(opening)
    for line in trainer.remarks() if fresh else []:
        monitor.say(line)
    stopping = parallel.any_of(trainer.must_stop())
    if fresh and not stopping and trainer.config.extend is None and isinstance(trainer.objective, Prepared):
        arguments = run, shards, trainer.device, monitor.say, trainer.must_stop
        with monitor.paused(trainer.device):
            if getattr(trainer.objective, "prepared_by_all", False):
                trainer.objective.prepare(*arguments)
            else:
                with parallel.together():
                    if trainer.first:
                        trainer.objective.prepare(*arguments)
    if stopping or parallel.any_of(trainer.must_stop()):
        status = "stopped"  # without a checkpoint: `prepare` keeps its own files and resumes from them
    else:
        trainer.join()
        status = trainer.fit(monitor)
    out = quote(str(run.path))
    if status == "stopped":
        monitor.say(
            f"Stopped at step {trainer.step:,} of {trainer.total:,}. "
            f"Resume: {run.launcher} run {name} --out {out} --resume{plugins.flags()}"
        )
    else:
        monitor.say(f"Done. {suggest_evaluation(shards, out)}")
    return status


def suggest_evaluation(shards: ShardSet, out: str) -> str:
    """The next command after a run in `out`: an evaluation that the set has the splits and classes for."""
    train, test = (shards.splits.get(split, 0) for split in ("train", "test"))
    if len(shards.classes) < 2:
        return (
            f"The set has no classes to evaluate with. Name a labelled set: fgtrain eval knn {out} --shards FOLDER"
            f"{plugins.flags()}, or export the encoder: fgtrain export {out} encoder.safetensors"
        )
    if not test:
        return (
            "The set has no test split: build it with one (folder and table take --test-fraction 0.2), or name another "
            f"set: fgtrain eval knn {out} --shards FOLDER{plugins.flags()}"
        )
    if not train:
        return f"Evaluate it: fgtrain eval retrieval {out} --untrained{plugins.flags()}"
    fewer = f" --k {train}" if train < NEIGHBOURS else ""
    return f"Evaluate it: fgtrain eval knn {out} --untrained{fewer}{plugins.flags()}"


def check_origin(run: RunDir, shards: ShardSet) -> None:
    """InputError unless a run resumes on the same shard set, at any path, and on the same list of labelled images."""
    digest = shards.manifest["digest"]
    if (old := run.facts.get("shards", {}).get("digest", digest)) != digest:
        raise InputError(
            f"{run.path} was trained on a shard set with digest {old[:12]}, but {shards.path} has digest "
            f"{digest[:12]}. Name the original set with --data.shards, or start a new run with another --out."
        )
    old, new = run.facts.get("labels"), shards.setting if isinstance(shards, Chosen) else None
    if run.facts and old != new:
        raise InputError(
            f"{run.path} was trained on the images of {old or 'the whole split'}, and --data.labels now gives "
            f"{new or 'the whole split'} (the file and its sha256). Restore the file, or start a new run with another "
            "--out."
        )
