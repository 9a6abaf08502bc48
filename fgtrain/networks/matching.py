"""Finds the weights of an encoder in the tables of a file, whatever they are called."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from .encoder import Encoder
from .foreign import IN_ORDER, NUMBERED, Weights, from_sequential, prefixes, renamings, under
from .resnet import BLOCKS
from .weights import Table

ENOUGH = 0.95
"""Least share of the weights of every part (stem and stages) that a checkpoint must contain."""

PREFIXES = 16
"""Prefixes tried of a table, at most twice this."""

AVERAGE = re.compile(
    r"(^|[._])(momentum|target|teacher|ema|swa|avg|averaged?|shadow|slow|key|k|optimi[sz]er|optim|grads?)([._]|$)",
    re.I,
)
"""Names of moving averages, such as teacher, encoder_k or model_ema, and of what an optimiser stores by name."""
TEACHER, DINO_HEAD = (
    re.compile(r"(^|[._])teacher([._]|$)", re.I),
    re.compile(r"(^|[._])(dino_|ibot_)?head\.(last_layer|prototypes)"),
)


class Match(NamedTuple):
    """The weights of the encoder that one table contains under one prefix."""

    place: str
    """The table's place in the file: "" or state_dict."""
    prefix: str
    matched: dict[str, Tensor]
    """Tensors with a name and shape of the encoder."""
    missing: list[str]
    """Names of the encoder that the table lacks, except num_batches_tracked, which has no effect here."""
    misshapen: list[str]
    """`name (shape in the file), here (shape in the encoder)`"""
    unexpected: list[str]
    """Names under the prefix that the encoder lacks."""
    others: int
    """Tensors outside the prefix."""
    shares: dict[str, float]
    """Part of the network -> share of its weights that matched."""
    named: Weights
    """All tensors under the prefix, by names without it."""
    how: str
    """How the names were changed; "" if they were not."""
    surplus: list[str]
    """Unexpected names in a stage, a sign of another network. Heads and classifiers are not included."""
    resized: list[str]
    """Tensors that timm resized: position embeddings of another grid, patches of another size."""

    def preference(self, dino: bool) -> tuple[bool, bool, bool, float, bool, bool]:
        """Prefers a network that fits; among those one that fits by its names; then an online network, or of DINO's the
        teacher; then more matched weights, no surplus, and names as they are."""
        where = f"{self.place}.{self.prefix}"
        fits = all(share >= ENOUGH for share in self.shares.values()) and not self.surplus
        wanted = bool(TEACHER.search(where)) if dino else not AVERAGE.search(where)
        named = self.how != IN_ORDER
        return fits, fits and named, fits and wanted, sum(self.shares.values()), not self.surplus, not self.how

    @property
    def is_average(self) -> bool:
        """Whether the names of table and prefix are those of a moving average, or of an optimiser's state."""
        return AVERAGE.search(f"{self.place}.{self.prefix}") is not None


def candidates(table: Table, into: Encoder) -> Iterator[Match]:
    """A match for every prefix and every way to read the names under it."""
    for prefix in prefixes(list(table.tensors), list(into.state_dict()), PREFIXES):
        named = under(prefix, table.tensors)
        for how, renamed in renamings(named, into.network):
            match = _match(table, prefix, how, named, renamed, into)
            yield match
            if not how and not match.missing and not match.misshapen:
                break  # the names are ours already


def _match(table: Table, prefix: str, how: str, original: Weights, named: Weights, into: Encoder) -> Match:
    ours = into.state_dict()
    matched = {k: named[k] for k, v in ours.items() if k in named and named[k].shape == v.shape}
    misshapen = [
        f"{k} {tuple(named[k].shape)}, here {tuple(v.shape)}"
        for k, v in ours.items()
        if k in named and named[k].shape != v.shape
    ]
    missing = [k for k in ours if k not in named and not k.endswith("num_batches_tracked")]
    sizes: dict[str, int] = {}
    sums: dict[str, int] = {}
    for name, parameter in into.network.named_parameters():
        part = into.groups.label(name)
        sizes[part] = sizes.get(part, 0) + parameter.numel()
        sums[part] = sums.get(part, 0) + parameter.numel() * (name in matched)
    shares = {part: sums[part] / sizes[part] for part in sizes}
    unexpected = [k for k in named if k not in ours]
    surplus = [k for k in unexpected if into.groups.is_stage(k)]
    resized = [k for k in matched if k in original and original[k].shape != matched[k].shape]
    others = len(table.tensors) - len(original)
    return Match(
        table.place, prefix, matched, missing, misshapen, unexpected, others, shares, named, how, surplus, resized
    )


def describe_resnet(table: Weights) -> tuple[str, str] | None:
    """A table of weights -> a description of its ResNet, and the flags that build it here ("" if unsupported).

    None when no ResNet is found.
    """
    numbered = dict.fromkeys(m[1] for name in table if (m := NUMBERED.match(name)))
    for named in [table, *(from_sequential(under(prefix, table)) for prefix in numbered)]:
        firsts = [k for k in named if re.search(r"(^|\.)layer1\.0\.conv1\.weight$", k)]
        if not firsts:
            continue
        prefix = firsts[0].removesuffix("layer1.0.conv1.weight")
        tensors = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
        blocks = [
            len({k.split(".")[1] for k in tensors if re.match(rf"layer{i}\.\d+\.conv1\.weight", k)})
            for i in (1, 2, 3, 4)
        ]
        deep, stem = "layer1.0.conv3.weight" in tensors, tensors.get("conv1.weight")
        known = {"basic [2, 2, 2, 2]": "resnet18", "basic [3, 4, 6, 3]": "resnet34"}
        known |= {"bottleneck [3, 4, 6, 3]": "resnet50", "bottleneck [3, 4, 23, 3]": "resnet101"}
        kind = f"{'bottleneck' if deep else 'basic'} {blocks}"
        name = known.get(kind, f"ResNet of {kind} blocks")
        if stem is None:
            return name, f"--model.backbone {name}" if kind in known else ""
        width, entry = len(stem), "imagenet" if stem.shape[-1] == 7 else "small"
        flags = f"--model.backbone {name} --model.width {width} --model.stem {entry}" if name in BLOCKS else ""
        if kind in known and (width, entry) == (64, "imagenet"):
            flags = f"--model.backbone {name}"
        return f"{name} of width {width} with the {entry} stem", flags
    return None
