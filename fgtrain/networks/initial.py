"""The initial encoder of a method: random, ImageNet's, or from a checkpoint of another project.

Projects put different prefixes before torchvision's names (`module.encoder_q.`, `backbone.`, `online_net.0.`). Every
prefix in the file is tried, and the one with the most weights of the right names and shapes is used. Files are read
with weights_only.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgdata.errors import InputError

from ..runs.state import damage, saved_by_torch
from ..settings.common import Config
from .encoder import BLOCKS, Encoder

ENOUGH = 0.95
"""Least share of the weights of every part (stem, layer1 to layer4) that a checkpoint must contain."""

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4")
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
    """Loads the weights that --init names into `into`, and reports the match in `into.origin`.

    InputError when the file cannot be read, or contains too few of the encoder's weights.
    """
    if init == "imagenet":
        source, tables = _imagenet(config.model.backbone)
    else:
        source, tables = _read(Path(init))
    match = max((candidate for table in tables for candidate in _candidates(table, into)), key=lambda m: m.score)
    if short := [part for part in PARTS if match.shares[part] < ENOUGH]:
        raise InputError(_refusal(source, match, short, tables, config))
    if match.surplus:
        raise InputError(_larger(source, match, config))
    into.load_state_dict({**into.state_dict(), **match.matched})
    into.origin = _report(source, match)


class Match(NamedTuple):
    """The weights of the encoder that one table contains under one prefix."""

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
    def score(self) -> tuple[float, bool, bool]:
        """Prefers more matched weights, then no surplus, then an online network over a moving average."""
        average = re.search(r"momentum|target|teacher|ema|_k\b|key", self.prefix)
        return sum(self.shares.values()), not self.surplus, not average


def _candidates(table: Weights, into: Encoder) -> Iterator[Match]:
    """A match for every prefix of a table that ends before a stem's conv1.weight, in the order of the file."""
    prefixes = dict.fromkeys(name[: -len("conv1.weight")] for name in table if re.search(r"(^|\.)conv1\.weight$", name))
    plain = [prefix for prefix in prefixes if not re.search(r"layer\d\.\d+\.$", prefix)]
    for prefix in plain or [""]:
        yield _match(prefix, {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}, table, into)
    for prefix, renamed in _numbered(table):
        yield _match(prefix, renamed, table, into)


def _numbered(table: Weights) -> Iterator[tuple[str, Weights]]:
    """Networks stored as nn.Sequential(*resnet.children()), as in lightly's examples. The children with weights are, in
    order, conv1, bn1 and layer1 to layer4."""
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    blocks = dict.fromkeys(m[1] for name in table if (m := re.match(r"(.*?)\d+\.\d+\.conv1\.weight$", name)))
    for prefix in blocks:
        named = {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}
        numbers = sorted({int(k.split(".")[0]) for k in named if k.split(".")[0].isdigit()})
        rename = dict(zip(map(str, numbers), names))
        parts = {k: k.partition(".") for k in named}
        yield prefix, {f"{rename.get(a, a)}{dot}{b}": named[k] for k, (a, dot, b) in parts.items()}


def _match(prefix: str, named: Weights, table: Weights, into: Encoder) -> Match:
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
    return Match(prefix, matched, missing, misshapen, unexpected, len(table) - len(named), shares, named)


def _part(name: str) -> str:
    first = name.partition(".")[0]
    return first if first.startswith("layer") else "stem"


def _imagenet(backbone: str) -> tuple[str, list[Weights]]:
    """Downloads torchvision's first ImageNet weights, IMAGENET1K_V1, the usual start in this field's papers."""
    weights = imagenet_weights(backbone)
    try:
        state = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"--init imagenet: {weights.url} could not be loaded ({error}). If this machine has no network, copy that "
            f"file to {quote(str(folder))}, or name a local copy: --init FILE"
        ) from error
    return f"torchvision's {weights}", [state]


def imagenet_weights(backbone: str) -> Any:
    """torchvision's entry for the ImageNet weights of a backbone, with their URL."""
    from torchvision.models import get_model_weights

    return get_model_weights(backbone)["IMAGENET1K_V1"]


def _read(path: Path) -> tuple[str, list[Weights]]:
    """A run directory, checkpoint folder or file -> its path for messages, and every table of tensors in it."""
    from ..runs.checkpoint import WEIGHTS, Checkpoint

    if not path.exists():
        raise InputError(
            f"--init {path} does not exist. Allowed: imagenet, a run directory, or a checkpoint file "
            "(.pth, .pt, .ckpt, .tar, .safetensors)."
        )
    if path.is_dir():
        path = Checkpoint.find(path).file
    if path.suffix == ".safetensors" or path.name == WEIGHTS:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return str(path), [load_file(path)]
        except (OSError, SafetensorError) as error:
            raise InputError(f"--init {path} is not a complete safetensors file ({_line(error)}).") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on other files, torch's reader raises errors of many types
        if isinstance(error, pickle.UnpicklingError) and saved_by_torch(path):
            unknown = re.search(r"GLOBAL (\S+)", str(error))
            what = f" ({unknown[1]})" if unknown else ", or is damaged"
            save = "import torch; s = torch.load('IN', 'cpu', weights_only=False); torch.save(s['state_dict'], 'OUT')"
            raise InputError(
                f"--init {path} contains Python objects besides tensors{what}; these are never unpickled here.\n"
                f'If you trust the file, save only its weights and pass the result to --init:\n  python -c "{save}"'
            ) from error
        raise InputError(
            f"--init {path} cannot be read: {damage(path, error)}. Allowed: imagenet, a run directory, or a checkpoint "
            "file (.pth, .pt, .ckpt, .tar, .safetensors)."
        ) from error
    tables = list(_tables(content))
    if not tables:
        raise InputError(f"--init {path} contains no table of named tensors.")
    return str(path), tables


def _tables(content: Any) -> Iterator[Weights]:
    """Every dict of a checkpoint that maps names to tensors: the file itself, its state_dict, teacher and so on."""
    if not isinstance(content, Mapping):
        return
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield tensors
    for value in content.values():
        yield from _tables(value)


def _report(source: str, match: Match) -> str:
    """One line about the initial weights of a run, and one per kind of mismatch."""
    under = f" under {match.prefix!r}" if match.prefix else ""
    lines = [f"initial weights: {source}{under}, {len(match.matched)} tensors"]
    for kind, names in (("missing, random here", match.missing), ("different shape, random here", match.misshapen)):
        if names:
            lines.append(f"  {kind}: {_few(names)}")
    if match.unexpected:
        lines.append(f"  not part of the encoder, ignored: {_few(match.unexpected)}")
    if match.others:
        lines.append(f"  outside that prefix, ignored: {match.others} tensors")
    return "\n".join(lines)


def _refusal(source: str, match: Match, short: list[str], tables: list[Weights], config: Config) -> str:
    model = config.model
    ours = f"{model.backbone} of width {model.width} with the {model.stem} stem"
    shares = ", ".join(f"{part} {match.shares[part]:.0%}" for part in short)
    lines = [f"--init {source} does not fit the encoder, a {ours}. Matching weights: {shares}; required: {ENOUGH:.0%}."]
    if theirs := next((named for table in tables if (named := architecture(table))), None):
        lines.append(f"The file contains a {theirs[0]}." + (f" Use: {theirs[1]}" if theirs[1] else ""))
    else:
        names = [name for table in tables for name in table]
        lines.append(f"No ResNet was found in the file. Its first names: {_few(names)}")
    if match.misshapen:
        lines.append(f"Different shapes: {_few(match.misshapen)}")
    return "\n".join(lines)


def _larger(source: str, match: Match, config: Config) -> str:
    """The message for a file with every weight of the encoder and further tensors of its blocks."""
    ours, theirs = config.model.backbone, architecture(match.named)
    name = f"a {theirs[0]}" if theirs else "another network"
    if name.startswith(f"a {ours} "):  # the same blocks, with more in them
        name += " with additional tensors in its blocks"
    under = f" under {match.prefix!r}" if match.prefix else ""
    return (
        f"--init {source} contains{under} {name}, larger than the encoder, a {ours}: {len(match.surplus)} tensors of "
        f"its blocks would be ignored ({_few(match.surplus)}). Use weights of a {ours}, or another --model.backbone: "
        f"{', '.join(BLOCKS)}."
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


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _few(names: list[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
