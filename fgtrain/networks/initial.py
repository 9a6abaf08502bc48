"""The initial encoder of a method: random, published, or from a checkpoint of another project.

Projects put different prefixes before the names (`module.encoder_q.`, `backbone.`, `online_net.0.`) or have names of
their own (foreign.py). Every prefix and every way to read a file is tried, and the one with the most weights of the
right names and shapes is used. Of several that fit, an online network is preferred to a moving average of one,
whichever comes first in the file, but the teacher of a DINO or iBOT checkpoint, which its authors evaluate, to the
student.
"""

import torch

from fgdata.errors import InputError

from ..settings.common import Config, Model
from . import published
from .encoder import Encoder
from .foreign import Weights
from .matching import DINO_HEAD, ENOUGH, Match, candidates, describe_resnet
from .weights import WeightsFile, printable_name

NEVER_NEGATIVE = {"running_var": "the variance", "num_batches_tracked": "the number of batches"}


def encoder(config: Config, size: int | None = None, flag: str = "views.size") -> Encoder:
    """Builds the encoder of a config with its initial weights and frozen stages, on the CPU.

    `size` is the side of the images that it will get, by default that of the views; `flag` sets it. Without
    `config.init` the weights are random, from torch's global generator. InputError when --init cannot be used,
    or when the network cannot process views of the size.
    """
    network = Encoder(config.model)
    network.check_size(config.views.size if size is None else size, flag)
    if config.views.local.count:
        network.check_size(config.views.local.size, "views.local.size")
    network.freeze(config.freeze_stages)
    if config.init:  # "": a checkpoint brings them
        with torch.random.fork_rng(devices=[]):  # reading a run builds its network; the heads must not depend on that
            load(network, config.init, config.model)
    network.hold = config.norm == "hold"
    return network.train()


def load(into: Encoder, init: str, model: Model) -> None:
    """Loads the weights that --init names into `into`, with the mean and std that they were trained with; sets
    `into.origin` and `into.initial` to their source.

    InputError when the file cannot be read, contains too few of the encoder's weights, or one that is not finite.
    """
    source = published.find(init, model.backbone)
    dino = any(DINO_HEAD.search(name) for table in source.tables for name in table.tensors)
    matches = (match for table in source.tables for match in candidates(table, into))
    match = max(matches, key=lambda m: m.preference(dino))
    if short := [part for part, share in match.shares.items() if share < ENOUGH]:
        raise InputError(_refusal(source, match, short, model))
    if match.surplus:
        raise InputError(_larger(source, match, model))
    ours = into.state_dict()
    _check_values(source, match, ours)
    into.load_state_dict({**ours, **match.matched})
    into.origin = _report(source, match, sum(map(_counts, ours)), dino)
    if source.normalisation is None:
        mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (into.mean, into.std))
        into.origin += (
            f"\n  the file states no mean and std; timm's for {model.backbone} are used unless the views have their "
            f"own: mean {mean}, std {std}"
        )
    else:
        into.mean, into.std = source.normalisation
    about = {"file": str(source.path), "sha256": source.sha256, "table": match.place, "prefix": match.prefix}
    about |= {"weights": published.VERSIONS[init]} if init in published.VERSIONS else {}
    into.initial = about


def _check_values(source: WeightsFile, match: Match, ours: Weights) -> None:
    """InputError naming the first matched tensor that is not dense, not real, not finite as a weight of `ours`, or
    negative where batch norm has none."""
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
        kind = NEVER_NEGATIVE.get(name.rpartition(".")[2])
        if kind and (count := int((value < 0).sum())):
            raise InputError(
                f"--init {source.path}: {full} has {count:,} of {value.numel():,} values below 0, but it is {kind} of "
                "batch norm; allowed: 0 or more. The file is damaged, or this is not what its name says: name an "
                "earlier checkpoint or download the file again."
            )


def _where(match: Match) -> str:
    """in 'state_dict' under 'module.encoder_q.'"""
    pairs = ((" in", match.place), (" under", match.prefix))
    return "".join(f"{word} '{printable_name(name)}'" for word, name in pairs if name)


def _report(source: WeightsFile, match: Match, count: int, dino: bool) -> str:
    """A line about the initial weights of a run, one about their file, and one per kind of mismatch."""
    how = f", {match.how}" if match.how else ""
    matched = sum(map(_counts, match.matched))
    lines = [f"initial weights: {source.path}{_where(match)}, {matched} of {count} tensors{how}"]
    if source.sha256:
        lines.append(f"  sha256 {source.sha256}")
    if match.is_average:
        teacher = "the teacher, as in the evaluations of DINO and iBOT"
        average = "a moving average, judging by its name: no online network in the file fits"
        lines.append(f"  {teacher if dino else average}")
    for kind, names in (
        ("missing, random here", match.missing),
        ("different shape, random here", match.misshapen),
        ("resized to this network", match.resized),
        ("not part of the encoder, ignored", match.unexpected),
    ):
        if names:
            lines.append(f"  {kind}: {_few(names)}")
    if match.others > 0:
        lines.append(f"  outside that prefix, ignored: {match.others} tensors")
    return "\n".join(lines)


def _counts(name: str) -> bool:
    """Whether a tensor counts in the report: not torch's counters of batches, which have no effect here."""
    return not name.endswith("num_batches_tracked")


def _describe(model: Model) -> str:
    plain = (model.width, model.stem) == (64, "imagenet")
    return model.backbone if plain else f"{model.backbone} of width {model.width} with the {model.stem} stem"


def _refusal(source: WeightsFile, match: Match, short: list[str], model: Model) -> str:
    shares = ", ".join(f"{part} {match.shares[part]:.0%}" for part in short[:6]) + (", ..." if short[6:] else "")
    lines = [
        f"--init {source.path} does not fit the encoder, a {_describe(model)}. Matching weights: {shares}; required: "
        f"{ENOUGH:.0%}."
    ]
    tables = [table.tensors for table in source.tables]
    if theirs := next((named for table in tables if (named := describe_resnet(table))), None):
        lines.append(f"The file contains a {theirs[0]}." + (f" Use: {theirs[1]}" if theirs[1] else ""))
    else:
        names = [name for table in tables for name in table]
        lines.append(
            f"Its first names: {_few(names)}. Allowed: the names of timm or torchvision under any prefix, or those of "
            "transformers, DINO, DINOv2 and DINOv3. Name the network of the file with --model.backbone."
        )
    if match.misshapen:
        lines.append(f"Different shapes: {_few(match.misshapen)}")
    return "\n".join(lines)


def _larger(source: WeightsFile, match: Match, model: Model) -> str:
    """The message for a file with every weight of the encoder and further tensors of its stages."""
    ours, theirs = model.backbone, describe_resnet(match.named)
    name = f"a {theirs[0]}" if theirs else "another network"
    if name.startswith(f"a {ours} "):  # the same blocks, with more in them
        name += " with additional tensors in its blocks"
    return (
        f"--init {source.path} contains{_where(match)} {name}, larger than the encoder, a {ours}: "
        f"{len(match.surplus)} tensors of its stages would be ignored ({_few(match.surplus)}). Use weights of a "
        f"{ours}, or name the network of the file with --model.backbone."
    )


def _few(names: list[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable_name(name) for name in names[:most]) + rest
