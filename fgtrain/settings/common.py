"""Every setting of a run. What changes the result stands in the method's config; what does not stands in `Machine`.

A docstring under a field is its `--help`. Nothing here imports torch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from fgdata.errors import InputError
from fgdata.views.spec import ViewSpec

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""Off unless given: no recipe turns it on, so no flag need turn it off."""

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Of kNN where nothing else is asked for: how many vote, and the temperature of their weights."""


def need(ok: bool, flag: str, found: Any, allowed: str) -> None:
    """InputError for a flag unless `ok`."""
    if not ok:
        raise InputError(f"--{flag} is {found}; allowed: {allowed}.")


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    shards: Path | None = None
    """Shard set (a folder with manifest.json). Default: the newest complete one under shards/."""
    split: str = "train"
    """Split to train on."""
    detector: str | None = None
    """Whose boxes guide the views and masks. Default: the set's first detector that is not gt, else gt."""
    backgrounds: tuple[Path, ...] = ()
    """Other shard sets, over whose images saliency-swap pastes. Default: it swaps among the images of a batch."""
    batch_size: int = 256
    """Samples per step, over all processes together."""


@dataclass(frozen=True)
class Model:
    """The encoder: torchvision's ResNet."""

    backbone: Literal["resnet18", "resnet50"] = "resnet18"
    """Architecture."""
    width: int = 64
    """Channels of the stem and of the first stage; every stage scales with it. 64 is the standard network."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: 7x7 convolution stride 2 and a max-pool (input / 4). small: 3x3 stride 1, no pool (input / 1)."""
    zero_init_residual: bool = False
    """Start the last batch norm of every residual block at zero, so that each block starts as the identity: as the
    authors of SimSiam and SimCLR do. Where --init brings weights it decides nothing."""


@dataclass(frozen=True)
class Optim:
    """The optimiser. The learning rate warms up linearly and then follows half a cosine to zero, step by step."""

    name: Literal["lars", "sgd", "adamw"] = "sgd"
    """Update rule."""
    lr: float = 0.03
    """Learning rate per 256 samples: the one used is lr * batch size / 256."""
    momentum: float = 0.9
    """Momentum of lars and sgd."""
    weight_decay: float = 1e-4
    """Weight decay."""
    exclude_norm_and_bias: bool = False
    """Leave biases and normalisation weights out of weight decay and of the LARS adaptation."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero, cut to a tenth of a short run."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other: less memory, the same samples and learning rate. Batch
    norm then sees one part at a time. Refused where the negatives are the batch itself."""


@dataclass(frozen=True)
class Machine:
    """Where and how it runs; none of this changes the result."""

    out: Path | None = None
    """Run directory. Default: runs/<name>."""
    resume: Switch = False
    """Continue the run in --out exactly where its last checkpoint stands; its settings become the defaults. Where there
    is nothing to continue, a new run starts and says so: a job that is queued again needs no other command."""
    config: Path | None = None
    """Read settings from the config.json of another run; flags win over it."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""
    backend: Literal["auto", "threads", "dali"] = "auto"
    """What makes the views. auto: dali with a GPU, threads without."""
    threads: int | None = None
    """Threads that make views, in each process. Default: this machine's cores, divided over its processes."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; one is always written at the end and on SIGTERM, SIGUSR1 or Ctrl-C."""
    keep_last: int = 2
    """Checkpoints kept."""
    log_every: int = 10
    """Steps per line of metrics.jsonl, each the mean over those steps."""
    knn_every: int = 0
    """Epochs between looks at kNN accuracy during training, on the set's train and test splits; 0: never."""
    tensorboard: Switch = False
    """Write the metrics for TensorBoard too, into the run directory."""
    compile: Switch = False
    """Compile the encoder with torch.compile: slow to start, then faster on a GPU; results move by rounding."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_last", "log_every"):
            need(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "1 or more")
        need(self.knn_every >= 0, "knn-every", self.knn_every, "0 for never, or a number of epochs")
        need(self.threads is None or 1 <= self.threads <= 1024, "threads", self.threads, "1 to 1024")


@dataclass(frozen=True)
class Config:
    """Settings that every method has."""

    method: ClassVar[str]
    objective: ClassVar[str]

    data: Data = Data()
    views: ViewSpec = field(default_factory=ViewSpec)
    model: Model = Model()
    optim: Optim = Optim()
    epochs: int = 400
    """Passes over the training split."""
    seed: int = 0
    """Decides initial weights, order of samples and every random draw of the views."""
    init: str | None = None
    """Weights the encoder starts from: imagenet (torchvision's, downloaded once), a run directory, or a checkpoint file
    of torchvision, timm, MoCo, OpenMixup, solo-learn, lightly or fgtrain. Of an online network and its moving average
    in one file (student and teacher, encoder_q and encoder_k), the online network is used. Default: random."""
    freeze_stages: int = 0
    """Stages kept as they start, weights and batch-norm statistics: 2 holds the stem, layer1 and layer2; 0 none."""
    sync_norm: bool = False
    """With several processes on GPUs, batch norm takes its statistics over all of them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks; losses are always fp32. auto: bf16 on a GPU (fp16 on one
    that lacks it), fp32 on a CPU."""
    machine: Annotated[Machine, tyro.conf.arg(name="")] = Machine()

    def __post_init__(self) -> None:
        for flag, value in _numbers(self):
            need(math.isfinite(value), flag, value, "a finite number")
        need(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        need(-(1 << 63) <= self.seed < 1 << 64, "seed", self.seed, "-2^63 to 2^64 - 1")
        need(self.data.batch_size >= 2, "data.batch-size", self.data.batch_size, "2 or more, as batch norm needs")
        need(self.views.views == 2, "views.views", self.views.views, "2, the pair that every method here compares")
        need(self.model.width >= 1, "model.width", self.model.width, "1 or more")
        need(self.optim.lr > 0, "optim.lr", self.optim.lr, "above 0")
        need(0 <= self.optim.momentum < 1, "optim.momentum", self.optim.momentum, "0 to below 1")
        need(self.optim.weight_decay >= 0, "optim.weight-decay", self.optim.weight_decay, "0 or more")
        need(self.optim.warmup_epochs >= 0, "optim.warmup-epochs", self.optim.warmup_epochs, "0 or more")
        standard = (self.model.width, self.model.stem) == (64, "imagenet")
        allowed = "a file, or with --model.width 64 and --model.stem imagenet ImageNet's weights"
        need(self.init != "imagenet" or standard, "init", "imagenet", allowed)
        need(
            0 <= self.freeze_stages <= 3, "freeze-stages", self.freeze_stages, "0 to 3, as layer4 must learn something"
        )
        need(self.optim.accumulate >= 1, "optim.accumulate", self.optim.accumulate, "1 or more")
        need(
            self.data.batch_size % self.optim.accumulate == 0 and self.data.batch_size > self.optim.accumulate,
            "optim.accumulate",
            self.optim.accumulate,
            f"a divisor of --data.batch-size {self.data.batch_size} that leaves two samples or more in each part",
        )


def _numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The flag and value of every float in a dataclass and in those inside it."""
    for one in fields(settings):
        value, flag = getattr(settings, one.name), prefix + one.name.replace("_", "-")
        if is_dataclass(value):
            yield from _numbers(value, "" if one.name == "machine" else f"{flag}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                yield flag, number
