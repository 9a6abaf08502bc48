"""What a method needs besides images, and how many of them, checked before a run starts."""

from pathlib import Path
from typing import Any

from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet
from fgdata.views.backgrounds import open_backgrounds
from fgdata.views.opening import choose_detector, open_mattes

from ..evaluate.labels import Labelled, Share
from ..settings.common import Config


def choose_images(config: Config, shards: ShardSet) -> ShardSet:
    """The images that a run learns from: the set, or of its split those that --data.labels lists or draws.

    InputError if the method does not learn from labels, or images are read in blocks of the set.
    """
    file = config.data.labels
    if file is None:
        return shards
    if "labels" not in config.needs:
        raise InputError(
            f"--data.labels {file}: {config.method} learns without labels, from the whole split. Omit the flag; for "
            "few labels, use it with fgtrain eval linear or finetune, as --labels."
        )
    if config.data.shuffle_block:
        raise InputError(f"--data.labels {file} cannot be combined with --data.shuffle-block. Omit one of them.")
    if isinstance(file, Path):
        return Labelled(shards, config.data.split, file, "--data.labels")
    return Share(shards, config.data.split, file, config.seed)


def check_labels(config: Config, shards: ShardSet) -> None:
    """InputError if the method needs labels and the shard set has none."""
    if "labels" in config.needs and (classes := len(shards.classes)) < 2:
        raise InputError(
            f"{config.method} learns from labels, but {shards.path} has {classes or 'no'} class{'es' * (not classes)}. "
            "Name a labelled set with --data.shards, or use a method without labels: fgtrain list. To build one from a "
            "folder for each class: fgdata build-shards --dataset folder --root IMAGES --saliency rbd"
        )


def check_backgrounds(config: Config) -> None:
    """InputError if the method needs images of other sets and the settings name none."""
    if "backgrounds" in config.needs and not config.data.backgrounds:
        raise InputError(
            f"{config.method} distinguishes the images of a set from others. Name one or more other shard sets: "
            "--data.backgrounds shards/coco. To build one: fgdata build-shards --dataset coco --saliency gt"
        )


def _need_whole_batch(config: Any) -> tuple[str, str]:
    """Why an objective cannot be computed in parts of a batch, and the setting with which it can, after "or"."""
    if config.method == "lcr" and config.attend.target == "raw":
        return "the raw target of lcr has the scale of a mean over the batch", ", or use --attend.target scaled"
    soft = hasattr(config, "moco") and config.moco.targets == "sinkhorn"
    if soft and config.method != "synth-pair" and getattr(config, "base", "moco") == "moco":
        return "--moco.targets sinkhorn assigns all keys of the batch", ", or use --moco.targets identity"
    return f"the negatives of {config.method} are the other samples of the batch", ""


def check_batch(config: Config, shards: ShardSet, accumulates: bool, world: int) -> None:
    """InputError for a batch that does not fit the split, the method or the number of processes.

    accumulates: whether the objective can compute a batch in parts. world: the number of processes.
    """
    parts, batch = config.optim.accumulate, config.data.batch_size
    if parts > 1 and not accumulates:
        reason, instead = _need_whole_batch(config)
        raise InputError(
            f"--optim.accumulate is {parts}, but {reason}, so computing it in parts would change the objective. Omit "
            f"the flag{instead}; to save memory, lower --data.batch-size."
        )
    count, shares = len(shards.split(config.data.split)), world * parts
    least, most = 2 * shares, count - count % shares
    has = f"split {config.data.split!r} of {shards.path} has {counted(count, 'image')}"
    over = f"{'1 process' if world == 1 else f'{world} processes'} and {counted(parts, 'part')}"
    if count < least:
        each = f", two in each share of a batch over {over}" if shares > 1 else ""
        raise InputError(
            f"{has[0].upper()}{has[1:]}; training needs at least {least}{each}. Name a larger set with --data.shards."
        )
    if not least <= batch <= count or batch % shares:
        multiple = f", a multiple of {shares}: it is divided over {over}" if shares > 1 else ""
        raise InputError(f"--data.batch-size is {batch:,}, but {has}; allowed: {least:,} to {most:,}{multiple}.")


def check_reads(config: Config, shards: ShardSet, objective: Any, world: int) -> None:
    """InputError if a shard set lacks what a run reads: images, boxes, maps; or for sets of backgrounds that cannot be
    used. objective: of the config, with any weights. world: the number of processes."""
    check_batch(config, shards, objective.accumulates, world)
    views, detector, split = objective.views, config.data.detector, config.data.split
    if config.data.backgrounds and not (views.pastes or views.lent):
        crop = f"--views.crop {config.views.crop}{' --views.matte-grey' if views.grey else ''}"
        raise InputError(
            f"--data.backgrounds is given, but {crop} shows no backgrounds. Omit the sets, or use a crop that pastes: "
            "--views.crop saliency-swap, paste or matte-paste."
        )
    if views.needs_boxes or views.needs_maps or detector:
        detector = choose_detector(shards, detector)
    if views.needs_maps:
        open_mattes(shards, split, detector).read(0)
    open_backgrounds(config.data.backgrounds, shards, split, views)
