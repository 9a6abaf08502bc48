"""Settings that all methods share. Those in `SAME_RESULT` do not change the result, and those in `Machine`
change only its arithmetic; all others do.

A docstring under a field is its `--help`. Nothing here imports torch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.conf import Suppress

from fgdata.errors import InputError
from fgdata.stores.flag import MaybePlace, Place
from fgdata.stores.place import Url
from fgdata.views.spec import ViewSpec

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is off by default in every recipe, so there is no flag to turn it off."""

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Defaults of kNN: the number of neighbours that vote, and the temperature of their weights."""


LARGEST = 1e30
"""Largest learning rate, weight decay and other numbers without a natural limit: float32 ends at 3.4e38."""
MOST = 1_000_000_000
"""Most epochs, and most steps or epochs between two events."""
MOST_CHANNELS, NARROWEST, WIDEST = 1_000_000, 8, 4096
"""Widest layer of a head; narrowest and widest encoder: 1/8 and 64 times the standard width."""
SEEDS = 1 << 64
"""Seeds are below this, as torch's generators and the views' draws need."""


SAME_RESULT = tuple(
    f"data.{name}" for name in ("shards", "readers", "ahead", "cache", "process", "cache_dir", "cache_gb")
)
"""Settings outside `Machine` that do not change the result: run.json identifies the shard set by its digest."""


def need(ok: bool, flag: str, value: Any, allowed: str) -> None:
    """InputError unless `ok`, naming the flag, its value and what is allowed."""
    if not ok:
        raise InputError(f"--{flag} is {value}; allowed: {allowed}.")


def need_between(least: float, value: float, most: float, flag: str, before: str = "") -> None:
    """InputError unless `value` is a number from `least` to `most`. `before`: what else is allowed."""
    allowed = " to ".join(f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" for limit in (least, most))
    need(least <= value <= most, flag, value, before + allowed)


def need_temperature(value: float, flag: str, before: str = "") -> None:
    """InputError unless a temperature is usable: the logits are cosines divided by it, and small ones overflow."""
    need_between(0.001, value, 1000, flag, before)


def need_seed(seed: int, trials: int = 1) -> None:
    """InputError unless every trial has a usable seed: `seed`, `seed` + 1, ..."""
    last = "1" if trials == 1 else f"{trials}, since every trial adds 1"
    need(0 <= seed <= SEEDS - trials, "seed", seed, f"0 to 2^64 - {last}")


@dataclass(frozen=True)
class Data:
    """The training data."""

    shards: MaybePlace = None
    """Shard set: a folder with manifest.json, or its URL (s3://, gs://, hf://datasets/, http(s)://). Default: the
    newest complete one under shards/."""
    split: str = "train"
    """Split to train on."""
    detector: str | None = None
    """Detector whose boxes guide the views and masks. Default: the set's first detector that is not gt, else gt."""
    labels: float | Path | None = None
    """Fraction of the images of every class to train on, drawn by --seed as in the evaluations; or a file that lists
    the images, one id or path per line, optionally followed by its label. Only for methods that learn from labels.
    Default: the whole split."""
    backgrounds: tuple[Place, ...] = ()
    """Shard sets whose images the crops that paste use as backgrounds; the set itself may be one. Default: other images
    of the batch."""
    batch_size: int = 256
    """Samples per step, summed over all processes."""
    readers: int | None = None
    """Threads that read, in each process; most of them wait for storage. Does not change the result. Default: 32 for
    each of its cores, at most 128."""
    ahead: int | None = None
    """Batches to read in advance; views are made for at most three of them. Does not change the result. Default:
    three, and as many more as keep all readers busy."""
    cache: Literal["ram"] | None = None
    """ram: keep the decoded images in memory, 3 bytes per pixel in each process, so that each is decoded once. Does not
    change the result; the backend is then threads. Default: decode each image in every epoch."""
    process: bool = False
    """Make the batches in a separate process, in each process of the run. Does not change the result. Linux only, and
    not with --backend dali on a GPU."""
    shuffle_block: int | None = None
    """Tars of the set whose samples are shuffled together, so that reads stay within a few files: for disks and network
    storage. Default: the whole split is shuffled."""
    cache_dir: Path | None = None
    """For sets given by URL: folder that keeps copies of their tars, for all processes and later runs. Does not change
    the result. Default: no copies."""
    cache_gb: float = 50.0
    """Largest size of the copies in --data.cache-dir, in GB; tars for which there is no room are read from the URL."""

    @property
    def lent_from_afar(self) -> bool:
        """Whether a set of backgrounds is given by its URL."""
        return any(isinstance(place, Url) for place in self.backgrounds)


@dataclass(frozen=True)
class Model:
    """The encoder: any network of timm, or a ResNet of any width."""

    backbone: str = "resnet18"
    """Name of the network in timm: resnet18, convnext_tiny, vit_small_patch16_dinov3, tf_efficientnet_lite0, ..."""
    width: int = 64
    """resnet18 and resnet50: channels of the stem and of the first stage; every stage scales with it. At least 8; 64 is
    the standard network."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """resnet18 and resnet50. imagenet: 7x7 convolution stride 2 and a max-pool (input / 4). small: 3x3 stride 1, no
    pool (input / 1)."""
    drop_path: float = 0.0
    """Largest probability that a block of a ViT, Swin, ConvNeXt or EfficientNet is skipped in training (stochastic
    depth); it grows from 0 with the depth."""
    zero_init_residual: bool = False
    """resnet18 and resnet50: start the last batch norm of every residual block at zero, so that each block starts as
    the identity, as the authors of SimSiam and SimCLR do. Has no effect when --init loads weights."""
    attend: Suppress[int] = 0  # not a flag: the method sets it
    """Filters of an attention branch that weights the pooling in evaluations; 0: none."""
    parts: Suppress[int] = 0  # as attend
    """Prototypes of parts whose features evaluations add to the pooled one; 0: none."""


def need_model(model: Model) -> None:
    """InputError for a width, drop path or attention branch out of range."""
    need_between(NARROWEST, model.width, WIDEST, "model.width")
    need_between(0, model.drop_path, 0.99, "model.drop-path")
    need_between(0, model.attend, WIDEST, "model.attend")
    need_between(0, model.parts, WIDEST, "model.parts")


@dataclass(frozen=True)
class OwnBoxes:
    """Boxes from the network's own maps, for --views.crop contrastive --views.crop-box given (ContrastiveCrop)."""

    first: int = 20
    """Complete epochs after which the boxes are found for the first time; until then a box is the whole image."""
    every: int = 20
    """Epochs between later searches, each with the network of that time."""
    threshold: float = 0.1
    """The box holds all places whose activation exceeds this share of the image's range, 0 to 0.99. The paper uses 0.1;
    if most boxes are nearly the whole image, its author advises 0.3 to 0.5. `box_area` in metrics.jsonl is the mean
    area."""

    def __post_init__(self) -> None:
        need_between(1, self.first, MOST, "own-boxes.first")
        need_between(1, self.every, MOST, "own-boxes.every")
        need_between(0, self.threshold, 0.99, "own-boxes.threshold")


@dataclass(frozen=True)
class Optim:
    """The optimiser. The learning rate warms up linearly, then follows a cosine decay to zero, updated every step."""

    name: Literal["lars", "sgd", "adamw"] = "sgd"
    """Update rule."""
    lr: float = 0.03
    """Learning rate per 256 samples: the actual rate is lr * batch size / 256."""
    momentum: float = 0.9
    """Momentum of lars and sgd."""
    weight_decay: float = 1e-4
    """Weight decay."""
    weight_decay_end: float | None = None
    """Weight decay at the end of the run, which it reaches on a cosine schedule, as in DINO. Default: constant."""
    exclude_norm_and_bias: bool = False
    """Exclude biases, normalisation weights, and position, class and register tokens from weight decay and from the
    LARS adaptation."""
    nesterov: bool = False
    """Nesterov's momentum, for lars and sgd."""
    layer_decay: float = 1.0
    """Factor by which the learning rate changes from one layer to the one below it: with 0.65 the heads train at the
    full rate, the last layer of the encoder at 0.65 of it, the one before at 0.42. 1: the same rate for all."""
    clip: float = 0.0
    """Largest norm of a gradient; a larger one is scaled down to it. 0: no limit."""
    clip_by: Literal["norm", "parameter"] = "norm"
    """The gradients that `clip` limits. norm: that of all parameters together. parameter: that of each tensor of
    weights, as the authors of DINO do."""
    skip_nonfinite: int = 2
    """Number of steps with a NaN or infinite loss to skip, without any update, before the run stops. 0: the first one
    stops it, and a GPU keeps no copy of the weights for this."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero; at most a tenth of the run."""
    accumulate: int = 1
    """Number of parts in which a batch is computed, one after the other. This saves memory; the samples and the
    learning rate stay the same. Batch norm then sees one part at a time. Not allowed for methods whose negatives are
    the batch itself."""


@dataclass(frozen=True)
class Machine:
    """Where and how to run. Devices, backends and --compile differ in arithmetic; nothing else changes the result."""

    out: Path | None = None
    """Run directory. Default: runs/<name>."""
    resume: Switch = False
    """Resume the run in --out exactly at its last checkpoint; its settings become the defaults. If there is nothing to
    resume, start a new run and report it, so that a requeued job can use the same command."""
    config: Path | None = None
    """Read settings from the config.json of another run, or from a YAML file; flags override them. A YAML file needs
    only what differs from the recipe. Default: the settings of the recipe."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps. auto: cuda if available, else cpu."""
    backend: Literal["auto", "threads", "dali"] = "auto"
    """Backend that computes the views. auto: dali on a GPU, else threads."""
    threads: int | None = None
    """Threads that compute views, in each process. Default: this machine's cores divided by its processes."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; one is also written at the end and on a stop signal."""
    keep_last: int = 2
    """Number of checkpoints to keep."""
    log_every: int = 10
    """Steps per line of metrics.jsonl, each the mean over those steps."""
    knn_every: int = 0
    """Epochs between kNN evaluations during training, on the set's train and test splits; 0: never."""
    linear_every: int = 0
    """Epochs between linear evaluations during training, as `fgtrain eval linear --cache --epochs 30`; 0: never. One
    pass over both splits, which --knn-every shares, and the layer."""
    rankme_every: int = 0
    """Epochs between measurements of RankMe, the effective rank of the features of up to 25,600 training images; 0:
    only with --knn-every and --linear-every. It needs no labels."""
    pictures_every: int = 0
    """Epochs between pictures of views and of Grad-CAM, written to pictures/ in the run directory; 0: never. Grad-CAM
    trains a linear layer, which takes one pass over the train split."""
    log: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Also send metrics and pictures to these loggers. tensorboard writes into the run directory; wandb, trackio and
    mlflow use their own settings and environment variables."""
    tensorboard: Switch = False
    """The same as --log tensorboard."""
    compile: Switch = False
    """Compile the encoder with torch.compile: slower start, faster steps on a GPU; results differ by rounding.
    Refused by methods that take their network apart: lcr, sam, papn and insloc."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_last", "log_every"):
            need_between(1, getattr(self, name), MOST, name.replace("_", "-"))
        for name in ("knn", "linear", "rankme", "pictures"):
            value = getattr(self, f"{name}_every")
            need(0 <= value <= MOST, f"{name}-every", value, f"0 for never, or 1 to {MOST:,} epochs")
        need(self.threads is None or 1 <= self.threads <= 1024, "threads", self.threads, "1 to 1024")


@dataclass(frozen=True)
class Config:
    """Settings of every method."""

    method: ClassVar[str]
    objective: ClassVar[str]
    """`module:name` of a class or function that takes the config, the number of training images and, for a method that
    needs labels, the number of classes."""
    kind: ClassVar[str] = "contrastive"
    """What the method learns from, for `fgtrain list`."""
    view_count: ClassVar[int] = 2
    """Views of an image that the objective takes."""
    takes_local: ClassVar[bool] = False
    """Whether the objective also takes local crops (`--views.local.count`)."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What the method needs besides images: labels or boxes of the shard set, backgrounds of other sets, or weights to
    start from."""

    data: Data = Data()
    views: ViewSpec = field(default_factory=ViewSpec)
    own_boxes: OwnBoxes = OwnBoxes()
    model: Model = Model()
    optim: Optim = Optim()
    epochs: int = 400
    """Passes over the training split."""
    seed: int = 0
    """Seed of the initial weights, the order of samples and all random draws of the views."""
    init: str | None = None
    """Weights the encoder starts from. imagenet: torchvision's first ones (IMAGENET1K_V1), as in the papers;
    imagenet-v2: its newer ones. timm:NAME and hf-hub:ORG/NAME: timm's, downloaded once. Otherwise a run directory, or a
    checkpoint file of torchvision, timm, Hugging Face, DINO, DINOv2, DINOv3, iBOT, MAE, MoCo, OpenMixup, solo-learn,
    lightly or fgtrain. If a file has an online network and its moving average, the online network is used,
    except for DINO and iBOT: there it is the teacher. Default: random."""
    init_heads: Switch = False
    """With --init RUN: start also from the heads and moving averages of that run, as far as they have the shapes of
    this method's. The optimiser, queues and banks start anew; --extend keeps them too."""
    extend: Path | None = None
    """Run directory whose training this run continues with a new schedule. All weights, heads, moving averages, banks
    and the state of the optimiser are kept. The run must have the same method, networks, views and shard set; epochs,
    seed and --optim may differ, except --optim.name. It starts with a whole epoch. --config RUN/config.json gives its
    settings. Default: a new training."""
    freeze_stages: int = 0
    """Stages whose weights and batch-norm statistics stay frozen. 2 freezes the stem and the first two stages of a
    convolutional network, or the patch embedding and the first two blocks of a ViT; 0: none."""
    norm: Literal["train", "hold"] = "train"
    """Batch norm of the encoder. train: normalises by the batch. hold: keeps the statistics of the initial weights, in
    the encoder and its moving average; needs --init."""
    sync_norm: bool = False
    """With several processes on GPUs, compute batch-norm statistics over all of them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks; losses are always fp32. auto: bf16 on a GPU (fp16 if it lacks bf16), fp32 on a CPU,
    where fp16 is refused."""
    machine: Annotated[Machine, tyro.conf.arg(name="")] = Machine()

    def __post_init__(self) -> None:
        for flag, value in _numbers(self):
            need(math.isfinite(value), flag, value, "a finite number")
        need_between(1, self.epochs, MOST, "epochs")
        need_seed(self.seed)
        batch = self.data.batch_size
        need(2 <= batch <= MOST, "data.batch-size", batch, f"2 or more, as batch norm needs, up to {MOST:,}")
        for name in ("readers", "ahead"):
            count = getattr(self.data, name)
            need(count is None or 1 <= count <= 1024, f"data.{name}", count, "1 to 1024")
        labels = self.data.labels
        ok = labels is None or isinstance(labels, Path) or 0 < labels <= 1
        need(ok, "data.labels", labels, "above 0, at most 1, of every class; or a file that lists images")
        block = self.data.shuffle_block
        need(block is None or 1 <= block <= MOST, "data.shuffle-block", block, f"1 to {MOST:,} tars")
        need_between(0.001, self.data.cache_gb, MOST, "data.cache-gb")
        allowed = f"{self.view_count}, the views of an image that {getattr(self, 'method', 'the method')} takes"
        need(self.views.views == self.view_count, "views.views", self.views.views, allowed)
        local = self.views.local.count
        need(
            self.takes_local or not local,
            "views.local.count",
            local,
            "0; only byol, dino and moco learn from local crops",
        )
        need_model(self.model)
        need(0 < self.optim.lr <= LARGEST, "optim.lr", self.optim.lr, f"above 0, at most {LARGEST:g}")
        need(0 <= self.optim.momentum < 1, "optim.momentum", self.optim.momentum, "0 to below 1")
        decay = self.optim.weight_decay
        need(0 <= decay <= LARGEST, "optim.weight-decay", decay, f"0 to {LARGEST:g}")
        need_between(0, self.optim.warmup_epochs, LARGEST, "optim.warmup-epochs")
        need_between(0, self.optim.skip_nonfinite, MOST, "optim.skip-nonfinite")
        end = self.optim.weight_decay_end
        need(end is None or 0 <= end <= LARGEST, "optim.weight-decay-end", end, f"0 to {LARGEST:g}")
        need(0 < self.optim.layer_decay <= 1, "optim.layer-decay", self.optim.layer_decay, "above 0, at most 1")
        clip = self.optim.clip
        need(0 <= clip <= LARGEST, "optim.clip", clip, f"0 for no limit, or a number up to {LARGEST:g}")
        moves = self.optim.name != "adamw" and self.optim.momentum > 0
        allowed = "only with --optim.name sgd or lars and a momentum above 0"
        need(not self.optim.nesterov or moves, "optim.nesterov", "on", allowed)
        standard = (self.model.width, self.model.stem) == (64, "imagenet")
        allowed = f"a file; {self.init} only with --model.width 64 and --model.stem imagenet"
        need(self.init not in ("imagenet", "imagenet-v2") or standard, "init", self.init, allowed)
        has_run = self.init is not None or self.extend is not None
        allowed = "only with --init RUN, whose heads it loads; --extend RUN keeps them anyway"
        need(has_run or not self.init_heads, "init-heads", "set", allowed)
        need_between(0, self.freeze_stages, 1000, "freeze-stages")
        need(
            self.norm == "train" or has_run,
            "norm",
            "hold",
            "train; hold only with --init or --extend, since random weights have no statistics to keep",
        )
        need_between(1, self.optim.accumulate, MOST, "optim.accumulate")
        need(
            self.data.batch_size % self.optim.accumulate == 0 and self.data.batch_size > self.optim.accumulate,
            "optim.accumulate",
            self.optim.accumulate,
            f"a divisor of --data.batch-size {self.data.batch_size} that leaves at least two samples in each part",
        )


def need_plain(config: Config, why: str) -> None:
    """InputError for --compile with a method that does not call its network as a whole. `why`: what it does."""
    need(not config.machine.compile, "compile", "on", f"off: {config.method} {why}")


def _numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The flag and value of every float in a dataclass and in those inside it."""
    for setting in fields(settings):
        value, flag = getattr(settings, setting.name), prefix + setting.name.replace("_", "-")
        if is_dataclass(value):
            yield from _numbers(value, "" if setting.name == "machine" else f"{flag}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                yield flag, number
