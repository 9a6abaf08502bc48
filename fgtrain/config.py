"""Every setting of a run. What changes the result stands in the method's config; what does not stands in `Machine`.

A docstring under a field is its `--help`. Nothing here imports torch.
"""

import dataclasses
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from fgdata.errors import InputError
from fgdata.views.spec import ViewSpec

Base = Literal["byol", "moco"]


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


@dataclass(frozen=True)
class Byol:
    """BYOL (Grill et al. 2020)."""

    hidden: int = 4096
    """Hidden width of projector and predictor."""
    dim: int = 256
    """Width of the projection."""
    ema: float = 0.996
    """Momentum of the target network at the start; it rises to 1 along half a cosine."""


@dataclass(frozen=True)
class Moco:
    """MoCo v2 (Chen et al. 2020)."""

    dim: int = 128
    """Width of the projection."""
    norm: bool = False
    """Batch norm in the head's hidden layer, as MoCo v3 has it. Without it a small network can stay for long where
    all projections are equal."""
    tau: float = 0.2
    """Temperature of InfoNCE."""
    queue: Literal["auto"] | int = "auto"
    """Negatives kept. auto: the largest power of two that is not above the number of training images, so that no
    image is its own negative for long; the paper has 65536."""
    ema: float = 0.999
    """Momentum of the key network."""
    symmetric: bool = False
    """Use each view once as query and once as key. CVSA always does."""


@dataclass(frozen=True)
class Align:
    """Cross-view saliency alignment (Wu et al. 2022, Eq. 3-5)."""

    stages: tuple[int, ...] = (4,)
    """Stages of the network whose maps are aligned: 3, 4 or both."""
    hidden: int = 4096
    """Hidden channels of the convolutional projector and predictor."""
    dim: int = 256
    """Channels of the convolutional projection."""
    normalize: Literal["none", "cosine"] = "none"
    """none: the plain dot product of Eq. 3, whose sigmoid saturates. cosine: unit vectors times `scale`."""
    scale: float = 8.0
    """Factor on the cosine; unused by none."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over positions. mean keeps the loss on the scale of the contrastive one; sum is the squared norm of Eq. 5."""
    weight: float = 1.0
    """Weight of the alignment loss beside the contrastive loss."""


@dataclass(frozen=True)
class Machine:
    """Where and how it runs; none of this changes the result."""

    out: Path | None = None
    """Run directory. Default: runs/<name>."""
    resume: bool = False
    """Continue the run in --out exactly where its last checkpoint stands; its settings become the defaults."""
    config: Path | None = None
    """Read settings from the config.json of another run; flags win over it."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: cuda where there is one."""
    backend: Literal["auto", "threads", "dali"] = "auto"
    """What makes the views. auto: dali with a GPU, threads without."""
    threads: int | None = None
    """Threads that make views. Default: one per core."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; one is always written at the end and on SIGTERM, SIGUSR1 or Ctrl-C."""
    keep_last: int = 2
    """Checkpoints kept."""
    log_every: int = 10
    """Steps per line of metrics.jsonl, each the mean over those steps."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_last", "log_every"):
            need(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "1 or more")


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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks; losses are always fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    machine: Annotated[Machine, tyro.conf.arg(name="")] = Machine()

    def __post_init__(self) -> None:
        need(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        need(self.data.batch_size >= 2, "data.batch-size", self.data.batch_size, "2 or more, as batch norm needs")
        need(self.views.views == 2, "views.views", self.views.views, "2, the pair that every method here compares")
        need(self.model.width >= 1, "model.width", self.model.width, "1 or more")
        need(self.optim.lr > 0, "optim.lr", self.optim.lr, "above 0")


@dataclass(frozen=True)
class ByolConfig(Config):
    method: ClassVar[str] = "byol"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Byol"

    byol: Byol = Byol()


@dataclass(frozen=True)
class MocoConfig(Config):
    method: ClassVar[str] = "moco"
    objective: ClassVar[str] = "fgtrain.objectives.bases:Moco"

    moco: Moco = Moco()


@dataclass(frozen=True)
class CvsaConfig(Config):
    method: ClassVar[str] = "cvsa"
    objective: ClassVar[str] = "fgtrain.objectives.cvsa:Cvsa"

    base: Base = "byol"
    """Contrastive objective beneath the alignment."""
    byol: Byol = Byol()
    moco: Moco = Moco()
    align: Align = Align()


METHODS: dict[str, type[Config]] = {config.method: config for config in (ByolConfig, MocoConfig, CvsaConfig)}


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON values, the method's name first."""
    return {"method": config.method, **_plain(dataclasses.asdict(config))}


def from_dict(values: dict[str, Any], source: str) -> Config:
    """The inverse of `to_dict`; keys left out take their defaults. `source` names the file in errors."""
    method = values.get("method")
    if method not in METHODS:
        raise InputError(f"{source} is for the method {method!r}; this fgtrain has: {', '.join(METHODS)}.")
    return _build(METHODS[method], {k: v for k, v in values.items() if k != "method"}, source)


def differences(old: Config, new: Config) -> list[str]:
    """Settings that change the result and differ, one line each. The shard set's place is not one of them."""
    flat_old, flat_new = _flat(to_dict(old)), _flat(to_dict(new))
    named = sorted(flat_old.keys() | flat_new.keys())
    kept = [k for k in named if not k.startswith("machine.") and k != "data.shards"]
    return [f"{k}: {flat_old.get(k)} -> {flat_new.get(k)}" for k in kept if flat_old.get(k) != flat_new.get(k)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out = {}
    for key, value in values.items():
        out.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


T = TypeVar("T")


def _build(kind: type[T], values: dict[str, Any], source: str, prefix: str = "") -> T:
    hints = get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(values.keys() - fields):
        raise InputError(
            f"{source} has the setting {prefix + unknown[0]!r}, which this fgtrain does not know. "
            f"Known here: {', '.join(prefix + f for f in sorted(fields))}."
        )
    built = {}
    for key, value in values.items():
        hint, name = hints[key], prefix + key
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            built[key] = _build(hint, value, source, name + ".")  # pyright: ignore[reportArgumentType]
        else:
            built[key] = _leaf(hint, value, f"{source}: {name}")
    return kind(**built)


def _leaf(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type of its field, or an error that names both."""
    origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint):
            return value
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _leaf(option, value, name)
            except InputError:
                continue
    elif origin is tuple and isinstance(value, list):
        kinds = get_args(hint)
        each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(each) == len(value):
            return tuple(_leaf(k, v, name) for k, v in zip(each, value))
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise InputError(f"{name} is {value!r}; expected {hint.__name__ if isinstance(hint, type) else hint}.")
