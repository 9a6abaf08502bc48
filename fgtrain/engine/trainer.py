"""The loop: one pass of batches through an objective per epoch, metrics, checkpoints, and exact continuation.

Every process of a training runs this file; the first one alone writes. A line marked (all) is one that all must reach.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgdata.cores import available_cores
from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet, meta
from fgdata.views import load

from .. import objectives, parallel
from ..evaluate import probe
from ..networks import optim
from ..networks.encoder import Encoder
from ..place import has_bf16
from ..runs.rundir import RunDir
from ..runs.state import load_state
from ..settings.common import NEIGHBOURS, TEMPERATURE, Config
from .monitor import Monitor

SAMPLES_SECOND = ("views", "masks")  # (2, B, ...): the samples are their second dimension
MOST_NAMED = 16  # samples named in a message; log.txt names all


class Trainer:
    """State of one run: `state()` and `restore()` carry all of it."""

    def __init__(self, config: Config, run: RunDir, shards: ShardSet, device: torch.device):
        self.config, self.run, self.shards, self.device = config, run, shards, device
        self.first, self.world = parallel.rank() == 0, parallel.world_size()
        with enough_memory(lambda: f"The networks and banks of these settings do not fit into the memory of {device}."):
            self.objective: Any = objectives.build(config, len(shards.split(config.data.split))).to(device).train()
        if config.sync_norm and self.world > 1 and device.type == "cuda":
            self.objective = nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)
        if config.machine.compile:
            for module in self.objective.modules():
                if isinstance(module, Encoder):
                    module.compile()
        self.model: nn.Module = self.objective
        self.optimizer = optim.build(self.objective.named_parameters(), config.optim, self.objective.constant_rate)
        self.check_settings()
        torch.manual_seed((config.seed + parallel.rank()) % (1 << 63))  # for what an objective draws on the way
        self.loader = load(
            shards,
            views=self.objective.views,
            batch_size=config.data.batch_size // self.world,
            split=config.data.split,
            detector=config.data.detector,
            backgrounds=config.data.backgrounds,
            backend=config.machine.backend,
            seed=config.seed,
            rank=parallel.rank(),
            world_size=self.world,
            threads=config.machine.threads or max(1, available_cores() // parallel.local_world_size()),
            device=device,
        )
        self.steps_per_epoch = len(self.loader)
        self.total = config.epochs * self.steps_per_epoch
        self.step = 0
        self.pending: list[dict[str, Tensor]] = []  # this process's logs since the last line of metrics.jsonl
        self.indices: list[Tensor] = []  # samples of those steps
        self.latest = torch.empty(0, dtype=torch.long)  # samples of the last step here
        self.signalled = self.stopped = False  # by a signal here, and in any process
        self.interrupted = False  # that signal was Ctrl-C
        precision = pick_precision(config.precision, device)
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(device.type, dtype, enabled=precision != "fp32")
        self.scaler = torch.GradScaler(device.type, enabled=precision == "fp16")

    def check_settings(self) -> None:
        config, parts = self.config, self.config.optim.accumulate
        if config.data.batch_size > (count := len(self.shards.split(config.data.split))):
            raise InputError(
                f"--data.batch-size is {config.data.batch_size:,}, and split {config.data.split!r} of "
                f"{self.shards.path} has {counted(count, 'sample')}; allowed: at most {count:,}."
            )
        if parts > 1 and not self.objective.accumulates:
            raise InputError(
                f"--optim.accumulate is {parts}, and the negatives of {config.method} are the batch itself: its parts "
                "would be another objective. Leave the flag out; --data.batch-size decides the memory."
            )
        if config.data.batch_size % (self.world * parts) or config.data.batch_size < 2 * self.world * parts:
            raise InputError(
                f"--data.batch-size is {config.data.batch_size}, and it is divided over {self.world} processes and "
                f"{parts} part{'s' if parts > 1 else ''}; allowed: a multiple of {self.world * parts} that leaves two "
                "samples or more in each."
            )
        splits = self.shards.splits
        if config.machine.knn_every and not (splits.get("train") and splits.get("test")):
            raise InputError(
                f"--knn-every needs a train and a test split; {self.shards.path} has {', '.join(splits)}. Leave it out."
            )

    def remarks(self) -> list[str]:
        """What a person should know before the first step."""
        config, lines = self.config, []
        if config.init is not None:
            lines.append(self.objective.encoder.origin)
        if config.freeze_stages:
            held = "the stem" + "".join(f", layer{i + 1}" for i in range(config.freeze_stages))
            lines.append(f"frozen: {held}" + ("" if config.init else ", at random weights: --init names better ones"))
        if config.sync_norm and self.world > 1 and self.device.type != "cuda":
            lines.append("batch norm: statistics of each process on its own; torch synchronises them on GPUs only")
        return lines

    def join(self) -> None:
        """(all) From here on gradients are averaged over the processes; weights and buffers become the first one's.

        That is once, not at every step: queue and bank stay alike everywhere, and running statistics, which no training
        step reads, are the first process's in every checkpoint.
        """
        if self.world > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.objective, device_ids=ids)
            self.model.broadcast_buffers = False  # as an argument torch 2.13 deprecates it, and 2.11 has no other

    def fit(self, monitor: Monitor) -> str:
        """Trains to the end or to a stop signal -> "done" or "stopped". A checkpoint is on disk either way."""
        between = self.steps_per_epoch * self.config.machine.checkpoint_every
        while self.step < self.total and not self.stopped:
            self.look(monitor)
            if self.step and self.step % between == 0:
                self.save()
            self.train_epoch(monitor)
        if not self.stopped:
            self.look(monitor)
        self.save()
        return "done" if self.step == self.total else "stopped"

    def train_epoch(self, monitor: Monitor) -> None:
        """What is left of the current epoch, or less when a stop signal comes."""
        batches: Iterator[dict[str, Tensor]] = iter(self.loader)
        while True:
            with monitor.waiting(self.device):
                batch = next(batches, None)
            if batch is None:
                return
            self.train_step(batch)
            monitor.step(self.step, self.config.data.batch_size)
            if self.step % self.config.machine.log_every == 0 or self.step == self.total:
                self.flush(monitor)
            self.stopped = parallel.any_of(self.signalled)  # (all)
            if self.stopped:
                return

    def train_step(self, batch: dict[str, Tensor]) -> None:
        settings, seen = self.config.optim, []
        warmup = min(round(settings.warmup_epochs * self.steps_per_epoch), self.total // 10)
        peak = settings.lr * self.config.data.batch_size / 256
        rate = optim.set_rates(self.optimizer, self.step, self.total, warmup, peak)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        self.optimizer.zero_grad()
        with enough_memory(self.too_large):
            for number in range(settings.accumulate):
                last = number + 1 == settings.accumulate
                with nullcontext() if last or self.world == 1 else self.model.no_sync():  # pyright: ignore
                    with self.autocast:
                        loss, logs = self.model(part(batch, number, settings.accumulate), self.step / self.total)
                    self.scaler.scale(loss / settings.accumulate).backward()
                seen.append({"loss": loss.detach(), **logs})
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.objective.after_step(self.step / self.total)
        means = {k: torch.stack([logs[k] for logs in seen]).mean(0) for k in seen[0]}
        self.pending.append({**means, "lr": torch.tensor(rate)})
        self.latest = batch["index"]
        self.indices.append(self.latest)

    def too_large(self) -> str:
        parts, own = self.config.optim.accumulate, self.config.data.batch_size // self.world
        less = f"--optim.accumulate {2 * parts} takes fewer at once; " if self.objective.accumulates else ""
        return (
            f"The memory of {self.device} is full at {own // parts} samples of {self.config.views.size} px at once. "
            f"{less}--data.batch-size makes the batch itself smaller."
        )

    def check(self) -> dict[str, list[float]]:
        """(all) The pending logs, their means over the processes; InputError at a step whose loss is not finite."""
        names = self.pending[0] if self.pending else {}
        own = {k: torch.stack([logs[k].float() for logs in self.pending]) for k in names}
        values = {k: parallel.gather(v[None]).mean(0).tolist() for k, v in own.items()}
        for i, loss in enumerate(values.get("loss", [])):
            if not math.isfinite(loss):
                self.step += i + 1 - len(self.pending)  # the run failed there; the steps after it are void
                numbers = parallel.gather(self.indices[i]).tolist()
                with parallel.together():
                    raise InputError(self.not_finite(f"The loss became {loss}", numbers))
        return values

    def check_weights(self) -> None:
        """(all) InputError where the last update made a weight or a statistic that is not finite of a loss that was."""
        numbers = [v for v in self.objective.state_dict().values() if v.is_floating_point()]
        if parallel.any_of(not all(v.isfinite().all() for v in numbers)):
            samples = parallel.gather(self.latest).tolist()
            with parallel.together():
                raise InputError(self.not_finite("The weights stopped being finite", samples))

    def not_finite(self, what: str, numbers: list[int]) -> str:
        """What is said of a loss or of weights that are not finite at this step, on those samples of the split."""
        split, last = self.shards.split(self.config.data.split), self.run.last_checkpoint
        ids = [str(meta(split.read(n))["id"]) for n in numbers]
        named = ", ".join(ids[:MOST_NAMED])
        if len(ids) > MOST_NAMED:
            named += f" and {len(ids) - MOST_NAMED:,} more, all in {self.run.path / 'log.txt'}"
        if self.first:
            self.run.log(f"samples of step {self.step}: {', '.join(ids)}")
        return (
            f"{what} at step {self.step:,} (epoch {(self.step - 1) // self.steps_per_epoch + 1}). "
            f"Last whole checkpoint: {last.name if last else 'none'}. A lower --optim.lr is the usual cure.\n"
            f"Samples of that step: {named}"
        )

    def flush(self, monitor: Monitor) -> None:
        """(all) One line of metrics.jsonl."""
        means = {k: sum(v) / len(v) for k, v in self.check().items()}
        self.pending, self.indices = [], []
        with parallel.together():
            monitor.record({"step": self.step, "epoch": self.epoch(), **means, **monitor.rates()})

    def epoch(self) -> float:
        return round(self.step / self.steps_per_epoch, 4)

    def look(self, monitor: Monitor) -> None:
        """(all) kNN accuracy of the encoder as it stands, every --knn-every epochs, once: on a copy, and with draws
        of its own, so that training goes on as if it had not been."""
        between = self.steps_per_epoch * self.config.machine.knn_every
        if not between or not self.step or self.step % between:
            return
        with parallel.together():
            if self.first and not self.run.has("knn", self.step):
                encoder, size = copy.deepcopy(self.objective.encoder), self.config.views.size
                right = probe.knn(encoder, self.shards, size, self.device, NEIGHBOURS, TEMPERATURE)
                accuracy = right.float().mean().item()
                monitor.record({"step": self.step, "epoch": self.epoch(), "knn": accuracy})

    def state(self) -> dict[str, Any]:
        """(all) What `restore` needs; the own state of each process under `ranks`."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        pending = [{k: v.cpu() for k, v in logs.items()} for logs in self.pending]
        return {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "ranks": parallel.collect({"rng": rng, "pending": pending, "indices": [i.cpu() for i in self.indices]}),
        }

    def restore(self, checkpoint: Path) -> None:
        """InputError for a checkpoint that is damaged or of another fgtrain."""
        state = load_state(checkpoint)
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.loader.load_state_dict(state["loader"])
            own = state["ranks"][parallel.rank()]
            torch.set_rng_state(own["rng"]["cpu"])
            if self.device.type == "cuda" and "cuda" in own["rng"]:
                torch.cuda.set_rng_state(own["rng"]["cuda"], self.device)
            self.pending = [
                {k: v if k == "lr" else v.to(self.device) for k, v in logs.items()} for logs in own["pending"]
            ]
            self.indices = [i.to(self.device) for i in own["indices"]]
            self.step = state["step"]
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{checkpoint / 'state.pt'} does not fit this fgtrain ({str(error).splitlines()[0]}). Continue with "
                "the one that wrote it (its commit and versions are in run.json), or start a new run."
            ) from error

    def save(self) -> None:
        """(all) A checkpoint, which never holds what is not finite."""
        self.check()
        self.check_weights()
        model, state = self.config.model, self.state()
        about = {"backbone": model.backbone, "width": str(model.width), "stem": model.stem}
        about |= {"size": str(self.config.views.size), "step": str(self.step), "method": self.config.method}
        with parallel.together():
            if self.first:
                keep = self.config.machine.keep_last
                self.run.save_checkpoint(self.step, self.objective.encoder, about, state, keep)
                self.run.note(checkpoint=self.step)


@contextmanager
def enough_memory(otherwise: Callable[[], str]) -> Iterator[None]:
    """InputError with what `otherwise()` says where a tensor finds no place, on a GPU or on a CPU."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise InputError(otherwise()) from error
        raise


def pick_precision(name: str, device: torch.device) -> str:
    """auto -> bf16 on a GPU, fp16 on one whose cores lack bf16, fp32 on a CPU; other names as they are."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if has_bf16(device) else "fp16"


def part(batch: dict[str, Tensor], number: int, parts: int) -> dict[str, Tensor]:
    """The samples of part `number` of a batch that is computed in `parts`."""
    if parts == 1:
        return batch
    return {k: v.chunk(parts, dim=1 if k in SAMPLES_SECOND else 0)[number] for k, v in batch.items()}
