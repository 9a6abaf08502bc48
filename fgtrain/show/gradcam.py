"""Grad-CAM (Selvaraju et al., ICCV 2017) of a linear classifier on frozen encoders, side by side: CVSA's Figures 1, 4.

The score is that of the true class, from a linear layer trained on the train split. The picture is the map of
evaluate/cam.py, scaled by its own maximum. The whole image is resized to a square.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from fgdata.errors import InputError, counted
from fgdata.images import decode
from fgdata.shards.reader import ShardSet, meta

from ..evaluate.cam import explain, remark_on
from ..evaluate.finetune import Part
from ..evaluate.localization import probe_layer
from ..evaluate.probe import images, placed
from ..evaluate.subject import Subject
from ..networks.encoder import Encoder
from ..printing import say
from ..runs.files import whole
from ..settings.common import need
from ..settings.evaluations import Evaluation
from ..settings.pictures import Gradcam
from .layout import layout
from .sheet import caption, check_rows, choose, default_split, fitted, framed, noted

MOST_RUNS = 8
"""Side by side."""
CELL = 224
"""Longer side of an image in the picture, in pixels."""
COLOURS = {name: getattr(cv2, f"COLORMAP_{name.upper()}") for name in ("jet", "turbo", "viridis", "inferno")}
COLOURS["grey"] = cv2.COLORMAP_BONE


def draw_gradcam(flags: Gradcam) -> Path:
    """Writes the sheet and returns its path: per row an image with its true boxes, then its Grad-CAM of each run.

    All runs use the shard set and the view size of the first.
    """
    paths = flags.runs
    if not 1 <= len(paths) <= MOST_RUNS:
        raise InputError(
            f"{counted(len(paths), 'run')} named; allowed: 1 to {MOST_RUNS}. Try: fgtrain show gradcam runs/cvsa"
        )
    options = Evaluation(paths[0], shards=flags.shards, size=flags.size, device=flags.device)
    first = Subject.open(options, ("train",), saves=False)
    options = replace(options, shards=first.shards.path, size=first.size)
    subjects = [first, *(Subject.open(replace(options, run=path), ("train",), saves=False) for path in paths[1:])]
    need(
        len(flags.labels) in (0, len(paths)),
        "labels",
        f"given {counted(len(flags.labels), 'name')}",
        f"one for each of {len(paths)} runs",
    )
    data, split = first.shards, default_split(first.shards, flags.split)
    reader, rows = data.split(split), len(flags.ids) or flags.rows
    check_rows(rows, data, split)
    numbers = choose(data, split, flags.ids, rows, flags.seed)
    cells = [[original(data, split, number)] for number in numbers]
    right, grid = [], (0, 0)
    for subject in subjects:
        pictures, grid, count = explained(
            subject.load(), data, split, numbers, subject.size, subject.device, flags.seed, flags.colours
        )
        right.append(count)
        for row, picture in zip(cells, pictures):
            row.append(picture)
    captions = [caption(data, reader.read(int(number))) for number in numbers]
    heads = [("image", 1), *((name, 1) for name in flags.labels or [named(subject) for subject in subjects])]
    out = flags.out or (first.checkpoint.run.path if first.checkpoint.run else Path()) / "gradcam.png"
    with whole(out) as part:
        layout(cells, captions, heads, CELL).save(part, out.suffix)
    say(f"{out}: {rows} images of {data.path} ({split}) at {first.size} px, maps of {grid[0]} x {grid[1]}")
    for subject, count in zip(subjects, right):
        say(f"  {subject.name}: {count} of these {rows} classified correctly")
    for line in remark_on(grid):
        say(f"  {line}")
    return out


def explained(
    encoder: Encoder,
    shards: ShardSet,
    split: str,
    numbers: np.ndarray,
    size: int,
    device: torch.device,
    seed: int,
    palette: str = "jet",
) -> tuple[list[Image.Image], tuple[int, ...], int]:
    """Images of a split by number -> Grad-CAM of their classes over each, (h, w) of the maps, and how many are
    classified correctly. `seed` decides the initial weights of the linear layer."""
    layer = probe_layer(encoder, shards, size, device, seed)
    part = Part(shards, split, torch.from_numpy(numbers))
    x, batch = next(images(part, split, encoder.whole_view(size), device))
    classes = batch["label"].to(device)
    maps, predicted = explain(placed(encoder, device), layer, x, classes)
    reader = shards.split(split)
    rgbs = (decode(reader.read(int(number))["jpg"], str(number)) for number in numbers)
    pictures = [overlaid(rgb, one, palette) for rgb, one in zip(rgbs, maps.cpu().numpy())]
    return pictures, tuple(maps.shape[1:]), int((predicted == classes).sum())


def original(shards: ShardSet, split: str, number: int) -> Image.Image:
    """The image with its true boxes outlined."""
    sample = shards.split(split).read(int(number))
    rgb = decode(sample["jpg"], str(number))
    height, width = rgb.shape[:2]
    image = fitted(rgb, CELL)
    for x, y, w, h in np.array(meta(sample)["boxes"]).reshape(-1, 4) * (width, height, width, height):
        image = framed(image, (x, y, x + w, y + h), CELL / max(width, height))
    return image


def overlaid(rgb: np.ndarray, cam: np.ndarray, palette: str = "jet") -> Image.Image:
    """(H, W, 3) image, (h, w) map >= 0 -> the image blended with the map's colours; of a map of zeros, a note on it."""
    image = np.asarray(fitted(rgb, CELL))
    if not cam.any():
        return noted(Image.fromarray(image), "empty map: no positive evidence")
    heat = cam / max(float(cam.max()), 1e-12)
    heat = cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((heat * 255).round().astype(np.uint8), COLOURS[palette])[..., ::-1]
    return Image.fromarray((0.5 * image + 0.5 * colours).round().astype(np.uint8))


def named(subject: Subject) -> str:
    """The name of the run's folder, or of the encoder's file."""
    return (subject.checkpoint.run.path if subject.checkpoint.run else subject.checkpoint.file).resolve().name
