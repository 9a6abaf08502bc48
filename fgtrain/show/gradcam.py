"""Grad-CAM (Selvaraju et al., ICCV 2017) of a linear classifier on frozen encoders, side by side: CVSA's Figures 1, 4.

The weight of channel k is the mean over positions of d score / d A_k, A the maps of the last stage (eq. 1), and the
picture is the positive part of the weighted sum of maps (eq. 2), scaled by its own maximum. The score is the true
class's, from a linear layer trained on the train split; the image is resized whole, to a square.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from fgdata.images import decode
from fgdata.shards.reader import ShardSet, label, meta
from fgdata.views import load

from ..evaluate.finetune import Part
from ..evaluate.localization import probe_layer, whole_image
from ..evaluate.subject import Subject
from ..networks.encoder import Encoder
from ..networks.saved import load_encoder
from ..runs.files import whole
from ..settings.common import need
from ..settings.evaluations import Evaluation
from ..settings.pictures import Gradcam
from .sheet import fitted, framed, layout

CELL = 224
"""Longer side of an image in the picture, in pixels."""


def grad_cam(activation: Tensor, score: Tensor) -> Tensor:
    """Maps (B, C, H, W) that need a gradient, scores (B,) computed from them -> (B, H, W), at least 0, not scaled.

    Each sample's score may depend on its own maps only (no batch statistics).
    """
    (gradient,) = torch.autograd.grad(score.sum(), activation)
    weight = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1), eq. 1
    return (weight * activation).sum(1).relu().detach()  # eq. 2


def maps_of(encoder: Encoder, layer: nn.Linear, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S), (B,) -> Grad-CAM (B, h, w) of those classes at the last stage, predicted classes (B,)."""
    with torch.no_grad():
        activation = encoder.eval()(x).stage4.float()
    activation.requires_grad_(True)
    scores = layer(torch.flatten(encoder.avgpool(activation), 1))
    own = scores.gather(1, classes[:, None])[:, 0]
    return grad_cam(activation, own), scores.argmax(1)


def draw_gradcam(flags: Gradcam) -> Path:
    """Writes the sheet: per row an image with its true boxes, and under each run its Grad-CAM laid over the image.

    All runs are shown, and their layers trained, on the shard set and at the view size of the first.
    """
    paths, split, rows = flags.runs, flags.split, flags.rows
    need(1 <= len(paths) <= 8, "RUN", f"given {len(paths)} times", "1 to 8 runs, side by side")
    asked = Evaluation(paths[0], flags.shards, flags.size, flags.device)
    first = Subject.open(asked, ("train",))
    alike = replace(asked, shards=first.shards.path, size=first.size)
    subjects = [first, *(Subject.open(replace(alike, run=path), ("train",)) for path in paths[1:])]
    data, reader = first.shards, first.shards.split(split)
    need(1 <= rows <= len(reader), "rows", rows, f"1 to {len(reader):,}, the images of the {split} split")
    chosen = np.sort(np.random.default_rng(flags.seed).choice(len(reader), rows, replace=False))
    with load(
        Part(data, split, torch.from_numpy(chosen)),
        views=whole_image(first.size),
        batch_size=rows,
        split=split,
        shuffle=False,
        device=str(first.device),
    ) as loader:
        batch = next(iter(loader))
    cells = [[original(data, split, number)] for number in chosen]
    right, grid = [], (0, 0)
    for subject in subjects:
        encoder = load_encoder(subject.found)
        layer = probe_layer(encoder, data, subject.size, subject.device, flags.seed).to(subject.device)
        classes = batch["label"].to(subject.device)
        found, predicted = maps_of(encoder, layer, batch["plain"].to(subject.device), classes)
        right.append(int((predicted == classes).sum()))
        grid = tuple(found.shape[1:])
        for row, one, number in zip(cells, found.cpu().numpy(), chosen):
            row.append(overlaid(decode(reader.read(int(number))["jpg"], str(number)), one))
    labels = [data.classes[label(reader.read(int(number)))] for number in chosen]
    captions = [name.split(".", 1)[-1].replace("_", " ") for name in labels]
    heads = [("image", 1), *((shortened(subject), 1) for subject in subjects)]
    out = flags.out or (first.found.run.path if first.found.run else Path()) / "gradcam.png"
    with whole(out) as part:
        layout(cells, captions, heads, CELL).save(part, "PNG", optimize=True)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: {rows} images of {data.path} ({split}) at {first.size} px, maps of {grid[0]} x {grid[1]}")
    for subject, count in zip(subjects, right):
        console.print(f"  {subject.name}: {count} of these {rows} classified right")
    if min(grid) < 4:
        console.print(f"  A map of {grid[0]} x {grid[1]} positions shows little; try a larger --size, such as 224.")
    return out


def original(shards: ShardSet, split: str, number: int) -> Image.Image:
    """The image, its true boxes outlined."""
    sample = shards.split(split).read(int(number))
    rgb = decode(sample["jpg"], str(number))
    height, width = rgb.shape[:2]
    image = fitted(rgb, CELL)
    for x, y, w, h in np.array(meta(sample)["boxes"]).reshape(-1, 4) * (width, height, width, height):
        image = framed(image, (x, y, x + w, y + h), CELL / max(width, height))
    return image


def overlaid(rgb: np.ndarray, cam: np.ndarray) -> Image.Image:
    """An image (H, W, 3) and a map (h, w) >= 0 -> the image under its colours: blue is 0, red the map's maximum."""
    shown = np.asarray(fitted(rgb, CELL))
    heat = cam / max(float(cam.max()), 1e-12)
    heat = cv2.resize(heat.astype(np.float32), shown.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return Image.fromarray((0.5 * shown + 0.5 * colours).round().astype(np.uint8))


def shortened(subject: Subject) -> str:
    """The name of the run's folder, cut to a column's width."""
    path = subject.found.run.path if subject.found.run else subject.found.file
    name = path.resolve().name
    return name if len(name) <= 20 else f"{name[:9]}...{name[-9:]}"
