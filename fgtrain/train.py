"""The loop: one pass of batches through an objective per epoch, metrics, checkpoints, and exact continuation."""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, meta
from fgdata.views import load
from fgtrain import objectives, optim, parallel
from fgtrain.config import Config
from fgtrain.data import open_shards, pick_device
from fgtrain.monitor import Monitor
from fgtrain.rundir import RunDir, load_state

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


class Trainer:
    """State of one run: `state()` and `restore()` carry all of it."""

    def __init__(self, config: Config, run: RunDir, shards: ShardSet, device: torch.device):
        self.config, self.run, self.shards, self.device = config, run, shards, device
        samples = len(shards.split(config.data.split))
        self.objective = objectives.build(config, samples).to(device).train()
        torch.manual_seed(config.seed + parallel.rank())  # for what an objective draws in its steps
        if config.optim.accumulate > 1 and not getattr(self.objective, "accumulates", True):
            raise InputError(
                f"--optim.accumulate is {config.optim.accumulate}, and the negatives of {config.method} are the batch "
                "itself: its parts would be another objective. Leave the flag out; --data.batch-size sets the memory."
            )
        constant = {"constant": names} if (names := getattr(self.objective, "constant_rate", ())) else {}
        self.optimizer = optim.build(self.objective.parameter_groups(), config.optim, **constant)
        self.loader = load(
            shards,
            views=self.objective.views,
            batch_size=config.data.batch_size,
            split=config.data.split,
            detector=config.data.detector,
            backgrounds=config.data.backgrounds,
            backend=config.machine.backend,
            seed=config.seed,
            threads=config.machine.threads,
            device=device,
        )
        self.steps_per_epoch = len(self.loader)
        self.total = config.epochs * self.steps_per_epoch
        self.step = 0
        self.pending: list[dict[str, Tensor]] = []  # logs since the last line of metrics.jsonl, on the device
        self.indices: list[Tensor] = []  # samples of those steps
        self.stop: signal.Signals | None = None
        wanted = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def fit(self, monitor: Monitor) -> str:
        """Trains to the end or to a stop signal -> "done" or "stopped". A checkpoint is on disk either way."""
        while self.step < self.total and self.stop is None:
            self.train_epoch(monitor)
            epochs = self.step // self.steps_per_epoch
            if self.step < self.total and self.stop is None and epochs % self.config.machine.checkpoint_every == 0:
                self.save()
        self.save()
        return "done" if self.step == self.total else "stopped"

    def train_epoch(self, monitor: Monitor) -> None:
        """What is left of the current epoch, or less when a stop signal comes."""
        batches: Iterator[dict[str, Tensor]] = iter(self.loader)
        while True:
            with monitor.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            self.train_step(batch)
            monitor.step(self.step, len(batch["index"]))
            if self.step % self.config.machine.log_every == 0 or self.step == self.total:
                self.flush(monitor)
            if self.stop is not None:
                return

    def train_step(self, batch: dict[str, Tensor]) -> None:
        settings = self.config.optim
        warmup = min(round(settings.warmup_epochs * self.steps_per_epoch), self.total // 10)
        peak = settings.lr * self.config.data.batch_size / 256
        rate = optim.set_rates(self.optimizer, self.step, self.total, warmup, peak)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        with self.autocast:
            loss, logs = self.objective(batch, self.step / self.total)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.objective.after_step(self.step / self.total)
        self.pending.append({"loss": loss.detach(), **logs, "lr": torch.tensor(rate)})
        self.indices.append(batch["index"])

    def check(self) -> dict[str, list[float]]:
        """The pending logs as numbers; InputError at the first step whose loss is not finite."""
        values = {k: torch.stack([logs[k] for logs in self.pending]).tolist() for k in (self.pending or [{}])[0]}
        for i, loss in enumerate(values.get("loss", [])):
            if not math.isfinite(loss):
                step = self.step - len(self.pending) + i + 1
                split = self.shards.split(self.config.data.split)
                names = [meta(split.read(int(n)))["id"] for n in self.indices[i]]
                last = self.run.last_checkpoint
                raise InputError(
                    f"The loss became {loss} at step {step:,} (epoch {(step - 1) // self.steps_per_epoch + 1}). "
                    f"Last whole checkpoint: {last.name if last else 'none'}. A lower --optim.lr is the usual cure.\n"
                    f"Samples of that step: {', '.join(map(str, names))}"
                )
        return values

    def flush(self, monitor: Monitor) -> None:
        means = {k: sum(v) / len(v) for k, v in self.check().items()}
        self.pending, self.indices = [], []
        epoch = self.step / self.steps_per_epoch
        record = {"step": self.step, "epoch": round(epoch, 4), **means, **monitor.rates()}
        self.run.append("metrics.jsonl", record)
        monitor.show(record)

    def state(self) -> dict[str, Any]:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "rng": rng,
            "pending": self.pending,
            "indices": self.indices,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        self.pending = [{k: v.to(self.device) for k, v in logs.items()} for logs in state["pending"]]
        self.indices = state["indices"]

    def save(self) -> None:
        self.check()  # a checkpoint never holds a state whose loss was not finite
        model = self.config.model
        about = {"backbone": model.backbone, "width": str(model.width), "stem": model.stem}
        about |= {"size": str(self.config.views.size), "step": str(self.step), "method": self.config.method}
        keep = self.config.machine.keep_last
        self.run.save_checkpoint(self.step, self.objective.encoder, about, self.state(), keep)


def train(config: Config, name: str) -> Path:
    """Runs a config to its end and returns its run directory. InputError for anything a setting can cure."""
    machine = config.machine
    device = pick_device(machine.device)
    shards = open_shards(config.data.shards)
    digest = shards.manifest["digest"]
    run = RunDir.open(machine.out or Path("runs") / name, config)
    if (old := run.facts.get("shards", {}).get("digest", digest)) != digest:
        raise InputError(
            f"{run.path} was trained on a shard set with digest {old[:12]}, and {shards.path} has {digest[:12]}. "
            "Name the original set with --data.shards, or start a new run with another --out."
        )
    trainer = Trainer(config, run, shards, device)
    run.start(config)
    run.note(**facts(shards, device), name=name, status="running")
    last = run.last_checkpoint
    if last is not None:
        trainer.restore(load_state(last))
    elif hasattr(trainer.objective, "prepare"):
        trainer.objective.prepare(run, shards, device, print)
    run.cut_metrics(trainer.step)
    status = "failed"
    try:
        with Monitor(run, trainer.step, trainer.total, trainer.steps_per_epoch) as monitor, stop_on_signal(trainer):
            monitor.say(
                f"{name}: {shards.path} ({len(shards.split(config.data.split)):,} images), {config.epochs} epochs of "
                f"{trainer.steps_per_epoch} steps, {device}, {run.path}"
                + (f", continued from step {trainer.step:,}" if last else "")
            )
            status = trainer.fit(monitor)
            if status == "stopped":
                monitor.say(
                    f"Stopped at step {trainer.step:,} of {trainer.total:,}. "
                    f"Continue: fgtrain run {name} --out {run.path} --resume"
                )
            else:
                monitor.say(f"Done. Look at it: fgtrain eval knn {run.path} --untrained")
    finally:
        run.note(status=status, step=trainer.step)
        trainer.loader.close()
    return run.path


def facts(shards: ShardSet, device: torch.device) -> dict[str, Any]:
    """What run.json says about where the run came from."""
    packages = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless")
    return {
        "argv": sys.argv,
        "commit": commit(),
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in packages}},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "shards": {"path": str(shards.path.resolve()), "digest": shards.manifest["digest"]},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def commit() -> str | None:
    """The commit of this source tree, or None for an installed package."""
    git = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        loose = git / head[5:]
        if loose.is_file():
            return loose.read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(head[5:])), None)
    except OSError:
        return None


@contextmanager
def stop_on_signal(trainer: Trainer):
    """SIGTERM, SIGUSR1 or Ctrl-C: stop at the next step with a checkpoint. A second one acts as it always does."""

    def handle(number: int, _frame: Any) -> None:
        trainer.stop = signal.Signals(number)
        signal.signal(number, old[signal.Signals(number)])

    old = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
