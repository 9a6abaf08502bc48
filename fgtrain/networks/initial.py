"""The initial encoder of a method: random, ImageNet's, or from a checkpoint of another project.

Projects put different prefixes before torchvision's names (`module.encoder_q.`, `backbone.`, `online_net.0.`). Every
prefix in the file is tried, and the one with the most weights of the right names and shapes is used. Of several that
fit, an online network is preferred to a moving average of one, whichever comes first in the file.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgdata.errors import InputError

from ..settings.common import Config
from .encoder import BLOCKS, Encoder
from .weights import Table, WeightsFile, printable_name, read

ENOUGH = 0.95
"""Least share of the weights of every part (stem, layer1 to layer4) that a checkpoint must contain."""

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4")
PREFIXES = 32
"""Prefixes tried of a table: those under which it has the most names of the encoder."""

AVERAGE = re.compile(
    r"(^|[._])(momentum|target|teacher|ema|swa|avg|averaged?|shadow|slow|key|k|optimi[sz]er|optim|grads?)([._]|$)",
    re.I,
)
"""Names of moving averages, such as teacher, encoder_k or model_ema, and of what an optimiser stores by name."""

Weights = Mapping[str, Tensor]


def encoder(config: Config) -> Encoder:
    """Builds the encoder of a config with its initial weights and frozen stages, on the CPU.

    Without `config.init` the weights are random, from torch's global generator. InputError when --init cannot be used.
    """
    network = Encoder(config.model)
    if config.init is not None:
        load(network, config.init, config)
    network.freeze(config.freeze_stages)
    return network


def load(into: Encoder, init: str, config: Config) -> None:
    """Loads the weights that --init names into `into`; sets `into.origin` and `into.initial` to their source.

    InputError when the file cannot be read, contains too few of the encoder's weights, or one that is not finite.
    """
    source = _download_imagenet(config.model.backbone) if init == "imagenet" else read(Path(init))
    match = max((m for table in source.tables for m in _candidates(table, into)), key=lambda m: m.preference)
    if short := [part for part in PARTS if match.shares[part] < ENOUGH]:
        raise InputError(_refusal(source, match, short, config))
    if match.surplus:
        raise InputError(_larger(source, match, config))
    ours = into.state_dict()
    _check_values(source, match, ours)
    into.load_state_dict({**ours, **match.matched})
    into.origin = _report(source, match)
    into.initial = {"file": str(source.path), "sha256": source.sha256, "table": match.place, "prefix": match.prefix}


class Match(NamedTuple):
    """The weights of the encoder that one table contains under one prefix."""

    place: str
    """The table's place in the file: "" or state_dict."""
    prefix: str
    matched: dict[str, Tensor]
    """Tensors with a name and shape of the encoder."""
    missing: list[str]
    """Names of the encoder that the table lacks, except num_batches_tracked, which is not used here."""
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

    @property
    def surplus(self) -> list[str]:
        """Unexpected names in a stem or block, a sign of another network. Heads and fc are not included."""
        return [name for name in self.unexpected if re.match(r"(conv1|bn1|layer[1-4])\.", name)]

    @property
    def is_average(self) -> bool:
        """Whether the names of table and prefix are those of a moving average, or of an optimiser's state."""
        return AVERAGE.search(f"{self.place}.{self.prefix}") is not None

    @property
    def preference(self) -> tuple[bool, bool, float, bool]:
        """Prefers a network that fits; among those an online network; then more matched weights, then no surplus."""
        fits = min(self.shares.values()) >= ENOUGH and not self.surplus
        return fits, fits and not self.is_average, sum(self.shares.values()), not self.surplus


def _candidates(table: Table, into: Encoder) -> Iterator[Match]:
    """A match for every prefix under which a table has names of the encoder, in the order of the file."""
    ours = into.state_dict()
    depth = max(name.count(".") for name in ours) + 1
    counts: Counter[str] = Counter()
    for name in table.tensors:
        parts = name.split(".")
        for i in range(max(0, len(parts) - depth), len(parts)):
            if ".".join(parts[i:]) in ours:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    for prefix, _ in counts.most_common(PREFIXES) or [("", 0)]:
        yield _match(table, prefix, _under(prefix, table.tensors), into)
    for prefix, renamed in _numbered(table.tensors):
        yield _match(table, prefix, renamed, into)


def _under(prefix: str, table: Weights) -> Weights:
    return {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}


def _numbered(table: Weights) -> Iterator[tuple[str, Weights]]:
    """Networks stored as nn.Sequential(*resnet.children()), as in lightly's examples. The children with weights are, in
    order, conv1, bn1 and layer1 to layer4."""
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    blocks = dict.fromkeys(m[1] for name in table if (m := re.match(r"(.*?)\d+\.\d+\.conv1\.weight$", name)))
    for prefix in list(blocks)[:PREFIXES]:
        named = _under(prefix, table)
        numbers = sorted({int(k.split(".")[0]) for k in named if re.match(r"\d{1,4}\.", k)})
        rename = dict(zip(map(str, numbers), names))
        parts = {k: k.partition(".") for k in named}
        yield prefix, {f"{rename.get(a, a)}{dot}{b}": named[k] for k, (a, dot, b) in parts.items()}


def _match(table: Table, prefix: str, named: Weights, into: Encoder) -> Match:
    ours = into.state_dict()
    matched = {k: named[k] for k, v in ours.items() if k in named and named[k].shape == v.shape}
    misshapen = [
        f"{k} {tuple(named[k].shape)}, here {tuple(v.shape)}"
        for k, v in ours.items()
        if k in named and named[k].shape != v.shape
    ]
    missing = [k for k in ours if k not in named and not k.endswith("num_batches_tracked")]
    shares = {}
    for part in PARTS:
        sizes = {k: v.numel() for k, v in into.named_parameters() if _part(k) == part}
        shares[part] = sum(n for k, n in sizes.items() if k in matched) / sum(sizes.values())
    unexpected = [k for k in named if k not in ours]
    others = len(table.tensors) - len(named)
    return Match(table.place, prefix, matched, missing, misshapen, unexpected, others, shares, named)


def _part(name: str) -> str:
    first = name.partition(".")[0]
    return first if first.startswith("layer") else "stem"


def _download_imagenet(backbone: str) -> WeightsFile:
    """torchvision's first ImageNet weights, IMAGENET1K_V1, the usual start in this field's papers; downloaded once."""
    weights = imagenet_weights(backbone)
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    published = file.stem.rpartition("-")[2]  # the first digits of the file's sha256
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), published, progress=False)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--init imagenet: {weights.url} could not be loaded ({error}). If this machine has no network, copy "
                f"that file to {quote(str(file.parent))}, or name a local copy: --init FILE"
            ) from error
    source = read(file)
    if not source.sha256.startswith(published):
        raise InputError(
            f"--init imagenet: {file} is damaged: its sha256 begins with {source.sha256[:8]}, and {published} was "
            f"published. Remove it to download it again:\n  rm {quote(str(file))}"
        )
    return source


def imagenet_weights(backbone: str) -> Any:
    """torchvision's entry for the ImageNet weights of a backbone, with their URL."""
    from torchvision.models import get_model_weights

    return get_model_weights(backbone)["IMAGENET1K_V1"]


def _check_values(source: WeightsFile, match: "Match", ours: Weights) -> None:
    """InputError naming the first matched tensor that is not dense, not real, or not finite as a weight of `ours`."""
    for name, value in match.matched.items():
        full = printable_name(match.prefix + name)
        plain = value.layout == torch.strided and not (value.is_quantized or value.is_meta or value.is_complex())
        if not plain or (ours[name].is_floating_point() and not value.is_floating_point()):
            kind = "quantised" if value.is_quantized else "meta" if value.is_meta else str(value.layout)[6:]
            raise InputError(
                f"--init {source.path}: {full} is a {kind} tensor of {str(value.dtype)[6:]}; allowed: dense tensors of "
                "floating-point numbers. Save the state_dict of the original network, before any conversion."
            )
        count = int((~value.to(ours[name].dtype).isfinite()).sum())
        if count:
            raise InputError(
                f"--init {source.path}: {full} has {count:,} of {value.numel():,} values that are not finite (NaN or "
                "infinite); allowed: finite weights. Training cannot repair them: name an earlier checkpoint or "
                "download the file again."
            )


def _where(match: Match) -> str:
    """in 'state_dict' under 'module.encoder_q.'"""
    pairs = ((" in", match.place), (" under", match.prefix))
    return "".join(f"{word} '{printable_name(name)}'" for word, name in pairs if name)


def _report(source: WeightsFile, match: Match) -> str:
    """Two lines about the initial weights of a run, and one per kind of mismatch."""
    lines = [
        f"initial weights: {source.path}{_where(match)}, {len(match.matched)} tensors",
        f"  sha256 {source.sha256}",
    ]
    if match.is_average:
        lines.append("  a moving average, by its name: no online network in the file fits")
    for kind, names in (("missing, random here", match.missing), ("different shape, random here", match.misshapen)):
        if names:
            lines.append(f"  {kind}: {_few(names)}")
    if match.unexpected:
        lines.append(f"  not part of the encoder, ignored: {_few(match.unexpected)}")
    if match.others:
        lines.append(f"  outside that prefix, ignored: {match.others} tensors")
    return "\n".join(lines)


def _refusal(source: WeightsFile, match: Match, short: list[str], config: Config) -> str:
    model = config.model
    ours = f"{model.backbone} of width {model.width} with the {model.stem} stem"
    shares = ", ".join(f"{part} {match.shares[part]:.0%}" for part in short)
    lines = [
        f"--init {source.path} does not fit the encoder, a {ours}. Matching weights: {shares}; required: {ENOUGH:.0%}."
    ]
    tables = [table.tensors for table in source.tables]
    if theirs := next((named for table in tables if (named := architecture(table))), None):
        lines.append(f"The file contains a {theirs[0]}." + (f" Use: {theirs[1]}" if theirs[1] else ""))
    else:
        names = [name for table in tables for name in table]
        lines.append(
            f"No ResNet was found in the file. Its first names: {_few(names)}. Allowed: torchvision's names "
            "(conv1, bn1, layer1 to layer4) under any prefix."
        )
    if match.misshapen:
        lines.append(f"Different shapes: {_few(match.misshapen)}")
    return "\n".join(lines)


def _larger(source: WeightsFile, match: Match, config: Config) -> str:
    """The message for a file with every weight of the encoder and further tensors of its blocks."""
    ours, theirs = config.model.backbone, architecture(match.named)
    name = f"a {theirs[0]}" if theirs else "another network"
    if name.startswith(f"a {ours} "):  # the same blocks, with more in them
        name += " with additional tensors in its blocks"
    return (
        f"--init {source.path} contains{_where(match)} {name}, larger than the encoder, a {ours}: "
        f"{len(match.surplus)} tensors of its blocks would be ignored ({_few(match.surplus)}). Use weights of a "
        f"{ours}, or another --model.backbone: {', '.join(BLOCKS)}."
    )


def architecture(table: Weights) -> tuple[str, str] | None:
    """A table of weights -> a description of its ResNet, and the flags that build it here ("" if unsupported).

    None when no ResNet is found.
    """
    numbered = [named for _, named in _numbered(table)]
    for named in [table, *numbered]:
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
            return name, f"--model.backbone {name}" if name in BLOCKS else ""
        width, entry = len(stem), "imagenet" if stem.shape[-1] == 7 else "small"
        flags = f"--model.backbone {name} --model.width {width} --model.stem {entry}" if name in BLOCKS else ""
        return f"{name} of width {width} with the {entry} stem", flags
    return None


def _few(names: list[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable_name(name) for name in names[:most]) + rest
