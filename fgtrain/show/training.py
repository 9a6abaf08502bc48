"""Pictures that a run draws while it trains: views of its last batch, and Grad-CAM of a linear layer."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec

from ..networks.encoder import Encoder
from ..runs.files import whole
from .gradcam import CELL, explained, original
from .layout import Sheet, layout
from .sheet import caption, choose, default_split, pixels

ROWS = 4


def draw_training(
    encoder: Encoder,
    shards: ShardSet,
    whole_set: ShardSet,
    split: str,
    views: tuple[Tensor, Tensor] | None,
    spec: ViewSpec,
    device: torch.device,
    folder: Path,
    step: int,
) -> dict[str, Path]:
    """Writes STEP-views.png and STEP-gradcam.png into the folder -> their paths by name.

    views: (V, b, 3, S, S) and (b,) sample numbers of a batch of `shards`; None draws none. Grad-CAM is of `whole_set`,
    whose images `shards` has some of, and needs a train split and two classes.
    """
    sheets: dict[str, Sheet] = {}
    if views is not None:
        sheets["views"] = views_sheet(*views, shards, split, spec)
    if whole_set.splits.get("train") and len(whole_set.classes) > 1:
        with torch.random.fork_rng(devices=[]):
            sheets["gradcam"] = gradcam_sheet(encoder, whole_set, spec.size, device)
    files = {}
    for name, sheet in sheets.items():
        files[name] = folder / f"{step:07d}-{name}.png"
        with whole(files[name]) as part:
            sheet.save(part, ".png")
    return files


def views_sheet(views: Tensor, index: Tensor, shards: ShardSet, split: str, spec: ViewSpec) -> Sheet:
    """(V, b, 3, S, S), (b,) -> a row for each sample with its views."""
    reader = shards.split(split)
    arrays = views.float().cpu().numpy().swapaxes(0, 1)
    cells = [[Image.fromarray(pixels(view, spec)) for view in own] for own in arrays]
    captions = [caption(shards, reader.read(number)) for number in index.tolist()]
    return layout(cells, captions, [(f"view {number + 1}", 1) for number in range(len(views))], spec.size)


def gradcam_sheet(encoder: Encoder, shards: ShardSet, size: int, device: torch.device) -> Sheet:
    """The same images every time, and where a linear layer on the frozen encoder sees their class."""
    split = default_split(shards, None)
    reader = shards.split(split)
    numbers = choose(shards, split, (), min(ROWS, len(reader)), 0)
    pictures, *_ = explained(encoder, shards, split, numbers, size, device, 0)
    cells = [[original(shards, split, number), picture] for number, picture in zip(numbers, pictures)]
    captions = [caption(shards, reader.read(int(number))) for number in numbers]
    return layout(cells, captions, [("image", 1), ("Grad-CAM", 1)], CELL)
