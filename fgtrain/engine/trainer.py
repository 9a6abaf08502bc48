"""The training loop: batches through an objective, and metrics.

Every process of a training runs this code; only the first one writes files. Functions marked (all) must be called by
all processes at the same point.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fgdata.errors import counted
from fgdata.shards.reader import ShardSet

from .. import objectives, parallel
from ..evaluate import online
from ..evaluate.labels import Chosen
from ..networks import optim
from ..networks.encoder import Encoder
from ..objectives import BetweenEpochs
from ..objectives.loading import load_images
from ..place import enough_memory, pick_precision
from ..runs.rundir import RunDir
from ..settings.common import Config
from ..settings.idle import describe_idle
from ..show.training import ROWS, draw_training
from . import checkpointing
from .capacity import check_memory
from .compiling import check_compiler, compile_failures_named
from .guard import Guard
from .left_out import LeftOut
from .monitor import Monitor
from .needs import check_backgrounds, check_labels, check_reads
from .refresh import Refresh
from .signals import StopSignals


class Trainer:
    """One training. checkpointing.py saves and restores its whole state.

    `state` is that of the checkpoint from which it will continue; a new run has none.
    """

    def __init__(
        self,
        config: Config,
        run: RunDir,
        shards: ShardSet,
        device: torch.device,
        signals: StopSignals | None = None,
        state: dict[str, Any] | None = None,
    ):
        self.config, self.run, self.shards, self.device = config, run, shards, device
        self.whole = shards.whole if isinstance(shards, Chosen) else shards  # what evaluations read
        self.first, self.world = parallel.rank() == 0, parallel.world_size()
        # A resumed or extended run has its weights in the checkpoint; the file of --init may be gone.
        built = replace(config, init="") if state else config
        samples = len(shards.split(config.data.split))
        precision = pick_precision(config.precision, device)
        check_labels(config, shards)
        check_backgrounds(config)
        if config.machine.compile:
            check_compiler(device)
        online.check(config.machine, shards)
        sketch = check_memory(replace(config, init=""), samples, device, self.world, len(shards.classes))
        if sketch is not None:  # before --init, which may be a download
            check_reads(config, shards, sketch, self.world)
        with enough_memory(
            lambda: (
                f"The networks and banks of these settings do not fit into the memory of {device}. "
                "Choose a smaller network, bank or queue."
            )
        ):
            self.objective: Any = objectives.build(built, samples, len(shards.classes)).to(device).train()
        objectives.normalise(self.objective, state or {})
        if config.sync_norm and self.world > 1 and device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm  # torch's does not keep timm's activations

            self.objective = convert_sync_batchnorm(self.objective)
        if config.machine.compile:
            for module in self.objective.modules():
                if isinstance(module, Encoder):
                    module.compile()
        self.model: nn.Module = self.objective
        self.optimizer = optim.build(self.objective, config.optim, self.objective.rates)
        self.guard = Guard(self.objective, self.optimizer, active=config.optim.skip_nonfinite > 0)
        if sketch is None:
            check_reads(config, shards, self.objective, self.world)
        torch.manual_seed(parallel.own_seed(config.seed))  # for random draws of the objective
        self.loader = load_images(config, shards, self.objective.views, device)
        views = self.objective.views
        own = views.crop == "contrastive" and views.crop_box == "given"
        self.refresh = Refresh(config, shards, device) if own else None
        self.steps_per_epoch = len(self.loader)
        self.total = config.epochs * self.steps_per_epoch
        self.step = 0
        self.pending: list[dict[str, Tensor]] = []  # this process's logs since the last line of metrics.jsonl
        self.indices: list[Tensor] = []  # samples of those steps
        self.left_out = LeftOut(config, run, shards, self.steps_per_epoch)
        self.latest = torch.empty(0, dtype=torch.long)  # this process's samples of the last step
        self.shown: tuple[Tensor, Tensor] | None = None  # views of the last batch, for pictures, and their samples
        self.signals = signals or StopSignals()
        self.stopped = False  # a stop signal came to any process
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(device.type, dtype, enabled=precision != "fp32")
        self.scaler = torch.GradScaler(device.type, enabled=precision == "fp16")

    def remarks(self) -> list[str]:
        """Notes to print before the first step."""
        config = self.config
        lines = describe_idle(config)
        lines += [self.shards.note] if isinstance(self.shards, Chosen) else []
        if config.init is not None and config.extend is None:
            lines.append(self.objective.encoder.origin)
        if config.freeze_stages:
            frozen = f"the stem and {counted(config.freeze_stages, 'stage')}"
            random = not (config.init or config.extend)
            advice = ", with random weights; use --init to load pretrained weights" if random else ""
            lines.append(f"frozen: {frozen}{advice}")
        if config.sync_norm and self.world > 1 and self.device.type != "cuda":
            lines.append("batch norm: separate statistics in each process; torch synchronises them on GPUs only")
        modules = self.objective.modules()
        lines += self.refresh.remarks(self.objective.encoder) if self.refresh else []
        lines += dict.fromkeys(line for module in modules for line in getattr(module, "remarks", ()))
        return lines

    def join(self) -> None:
        """(all) Copies weights and buffers from the first process; from now on gradients are averaged over all.

        Queue and bank stay equal in all processes, and running statistics, which no training step reads, are saved from
        the first process.
        """
        self.model = parallel.averaged(self.objective, self.device)

    def fit(self, monitor: Monitor) -> str:
        """(all) Trains to the end or to a stop signal -> "done" or "stopped". Both end with a checkpoint on disk."""
        between, self.left_out.say = self.steps_per_epoch * self.config.machine.checkpoint_every, monitor.say
        while self.step < self.total and not self.stopped:
            with monitor.paused(self.device):
                if self.step and self.step % between == 0:
                    checkpointing.save(self)  # before an evaluation, which may be killed
                self.evaluate(monitor)
            self.train_epoch(monitor)
            epoch, rest = divmod(self.step, self.steps_per_epoch)
            if not rest:
                with monitor.paused(self.device):
                    self.between_epochs(epoch, monitor)
        checkpointing.save(self)
        if not self.stopped:
            self.evaluate(monitor)
        return "done" if self.step == self.total else "stopped"

    def between_epochs(self, epoch: int, monitor: Monitor) -> None:
        """(all) What follows a complete epoch, before its checkpoint: the objective's own part, and the boxes."""
        encoder = self.objective.encoder
        if isinstance(self.objective, BetweenEpochs):
            self.objective.after_epoch(epoch, self.loader, monitor.say)
        if self.refresh:
            area = self.refresh.after_epoch(epoch, encoder, self.loader, monitor.say)
            if area is not None:
                monitor.record({"step": self.step, "epoch": self.epoch(), "box_area": area})

    def train_epoch(self, monitor: Monitor) -> None:
        """(all) Trains the rest of the current epoch, or until a stop signal."""
        batches: Iterator[dict[str, Tensor]] = iter(self.loader)
        while True:
            with monitor.waiting(self.device), enough_memory(self.too_large):
                batch = next(batches, None)
            if batch is None:
                return
            self.train_step(batch)
            monitor.step(self.step, self.config.data.batch_size)
            if self.step % self.config.machine.log_every == 0 or self.step == self.total:
                self.flush(monitor)
            self.stopped = parallel.any_of(self.must_stop())  # (all)
            if self.stopped:
                return

    def must_stop(self) -> bool:
        """Whether this process got a stop signal, or lost the launcher that would pass one on."""
        return self.signals.came or parallel.lost_launcher()

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """(all) One update: the optimiser step on a batch, in `accumulate` parts. Without an update if the loss is not
        finite."""
        settings, part_logs = self.config.optim, []
        warmup = min(round(settings.warmup_epochs * self.steps_per_epoch), self.total // 10)
        peak = settings.lr * self.config.data.batch_size / 256
        rate = optim.set_rates(self.optimizer, self.step, self.total, warmup, peak)
        optim.set_decay(self.optimizer, self.step / self.total, settings)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        self.optimizer.zero_grad()
        with enough_memory(self.too_large), compile_failures_named():
            self.guard.save()
            for number in range(settings.accumulate):
                last = number + 1 == settings.accumulate
                with nullcontext() if last or self.world == 1 else self.model.no_sync():  # pyright: ignore
                    with self.autocast:
                        own = part(batch, number, settings.accumulate, self.loader.tensors)
                        loss, logs = self.model(own, self.step / self.total)
                    self.scaler.scale(loss / settings.accumulate).backward()
                part_logs.append({"loss": loss.detach(), **logs})
            skipped = self.guard.skips([logs["loss"] for logs in part_logs])
            self.scaler.unscale_(self.optimizer)  # always: `update` needs it after a step that is left out
            if settings.clip:
                part_logs[-1]["gradient"] = optim.clip(self.optimizer, settings.clip, settings.clip_by)
            if not skipped:
                self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.objective.after_step(self.step / self.total)  # always: it also clears what the forward pass has noted
        self.guard.take_back()
        means = {k: torch.stack([logs[k] for logs in part_logs if k in logs]).mean(0) for k in part_logs[-1]}
        self.pending.append({**means, "lr": torch.tensor(rate)})
        if self.draws():
            self.shown = batch["views"][:, :ROWS].clone(), batch["index"][:ROWS]
        self.latest = batch["index"]
        self.indices.append(self.latest)

    def too_large(self) -> str:
        """The message for a step that does not fit into memory."""
        parts, own = self.config.optim.accumulate, self.config.data.batch_size // self.world
        less = (
            f"Use --optim.accumulate {2 * parts} to compute fewer at once, or a" if self.objective.accumulates else "A"
        )
        return (
            f"{own // parts} samples of {self.config.views.size} px at once do not fit into the memory of "
            f"{self.device}. {less} smaller --data.batch-size."
        )

    def check(self) -> dict[str, list[float]]:
        """(all) The pending logs as means over the processes, without steps that were left out. InputError if more
        losses than allowed are not finite."""
        names = self.pending[0] if self.pending else {}
        own = {k: torch.stack([logs[k].float() for logs in self.pending]) for k in names}
        values = {k: parallel.gather(v[None]).mean(0).tolist() for k, v in own.items()}
        good = [math.isfinite(loss) for loss in values.get("loss", [])]
        for i in (i for i, is_good in enumerate(good) if not is_good):
            step = self.step + i + 1 - len(self.pending)
            if step not in self.left_out.steps:
                samples = parallel.gather(self.indices[i]).tolist()
                if self.left_out.is_full:
                    self.step = step  # the run failed at that step; later ones do not count
                self.left_out.add(step, values["loss"][i], samples)
        return {k: [value for value, is_good in zip(v, good, strict=True) if is_good] for k, v in values.items()}

    def check_weights(self) -> None:
        """(all) InputError if the last update made a weight or statistic infinite or NaN from a finite loss."""
        tensors = [v for v in self.objective.state_dict().values() if v.is_floating_point()]
        if parallel.any_of(not all(v.isfinite().all() for v in tensors)):
            samples = parallel.gather(self.latest).tolist()
            with parallel.together():
                raise self.left_out.fault("The weights became NaN or infinite", self.step, samples)

    def flush(self, monitor: Monitor) -> None:
        """(all) Writes a line of metrics.jsonl: the means since the last one."""
        means = {k: sum(v) / len(v) for k, v in self.check().items() if v}
        self.pending, self.indices = [], []
        with parallel.together():
            monitor.record({"step": self.step, "epoch": self.epoch(), **means, **monitor.rates()})

    def epoch(self) -> float:
        """Epochs trained so far, with the fraction of the current one."""
        return round(self.step / self.steps_per_epoch, 4)

    def evaluate(self, monitor: Monitor) -> None:
        """(all) Measures the encoder and draws pictures, when they are due. Both use a copy of the encoder and random
        numbers of their own, so that training is not affected."""
        config = self.config
        wanted, draws = online.due(config.machine, self.step, self.steps_per_epoch), self.draws()
        if not wanted and not draws:
            return
        with parallel.together():
            if not self.first:
                return
            if wanted and not self.run.has(wanted[0], self.step):
                encoder, size = copy.deepcopy(self.objective.encoder), config.views.size
                figures = online.measure(encoder, self.whole, config.data.split, size, self.device, wanted)
                monitor.record({"step": self.step, "epoch": self.epoch(), **figures})
            if draws and self.shown is not None:
                encoder, folder = copy.deepcopy(self.objective.encoder), self.run.path / "pictures"
                about = config.data.split, self.shown, self.objective.views, self.device, folder, self.step
                for name, file in draw_training(encoder, self.shards, self.whole, *about).items():
                    monitor.picture(self.step, name, file)

    def draws(self) -> bool:
        """Whether pictures are due after this step."""
        between = self.steps_per_epoch * self.config.machine.pictures_every
        return bool(between and self.step and self.step % between == 0)


def part(batch: dict[str, Tensor], number: int, parts: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The samples of part `number` (from 0) of a batch that is computed in `parts`. shapes: as of `Loader.tensors`."""
    if parts == 1:
        return batch
    return {k: v.chunk(parts, dim=shapes[k].index(-1))[number] for k, v in batch.items()}
