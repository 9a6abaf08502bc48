"""The built-in dataset: birds painted by code. The classes differ only in small parts of the bird.

An image is a function of (seed, number, class, size). Its number determines everything that must not depend on the
class: background, pose, place, body colours, light. Only the field marks depend on the class. Classes of one dataset
never share a number, so no two images have the same scene.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ...errors import InputError
from .. import Dataset, PixelBoxes, Record
from .bird import paint, random_individual
from .plumage import MOST_CLASSES, species
from .pose import random_pose
from .scenery import background
from .stage import in_front, light, perch

ASPECTS = (4 / 3, 4 / 3, 4 / 3, 3 / 2, 1.0, 3 / 4)  # width / height, as common in photographs
JPEG_QUALITY = 92
SIZES = (32, 2048)
PAINTER = 1
"""Version of the painted images: a set started by another version is not resumed."""


@dataclass(frozen=True)
class Drawing:
    """One image and its ground truth."""

    rgb: np.ndarray
    """(H, W, 3) uint8."""
    mask: np.ndarray
    """(H, W) bool: the visible pixels of the bird."""
    box: tuple[float, float, float, float]
    """(l, t, w, h) in pixels, the bounds of the mask."""


def draw(class_index: int, number: int, *, size: int, seed: int) -> Drawing:
    """Draws image `number` with a bird of class `class_index`, `size` pixels on its long side."""
    kind = species(MOST_CLASSES)[class_index]
    streams = ("frame", "pose", "scene", "individual", "front", "light", "noise")
    frame, stance, scene, individual, front, lamp, noise = (_stream(seed, number, i) for i in range(len(streams)))
    aspect = ASPECTS[frame.integers(len(ASPECTS))]
    width, height = (size, round(size / aspect)) if aspect >= 1 else (round(size * aspect), size)

    pose = random_pose(stance, width, height)
    rgb, grounded = background(scene, width, height)
    perch(scene, rgb, pose, grounded)
    rgb = rgb.astype(np.float32)
    marks = _stream(seed, number, len(streams), class_index)
    bird, mask = paint(kind, pose, random_individual(individual), marks, width, height)
    rgb += mask[..., None] * (bird - rgb)
    if (leaves := in_front(front, width, height, pose)) is not None:
        over, cover = leaves.averaged()
        rgb += cover[..., None] * (over - rgb)
        mask = mask * (1 - cover)
    rgb *= light(lamp, width, height)
    rgb += (noise.standard_normal((height, width), np.float32) * noise.uniform(1.0, 4.0))[..., None]

    visible = mask >= 0.5
    left, top, w, h = cv2.boundingRect(visible.astype(np.uint8))
    return Drawing(
        np.clip(rgb, 0, 255, out=rgb).astype(np.uint8), visible, (float(left), float(top), float(w), float(h))
    )


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def read(*, classes: int = 20, images_per_class: int = 60, size: int = 256, seed: int = 0) -> Dataset:
    """Describes the dataset; images are painted when they are loaded. Every third image of a class is a test image.

    Args:
        classes: Number of classes, 2 to 500.
        images_per_class: Images of each class, 3 to 100,000.
        size: Long side in pixels, 32 to 2048.
        seed: Seed of all images, 0 to 2^63 - 1.

    Raises:
        InputError: a value is out of range.
    """
    _check_whole_number("classes", classes, 2, MOST_CLASSES)
    _check_whole_number("images-per-class", images_per_class, 3, 100_000)
    _check_whole_number("size", size, *SIZES)
    _check_whole_number("seed", seed, 0, 2**63 - 1)
    names = tuple(f"{i + 1:03d}.{kind.name}" for i, kind in enumerate(species(classes)))
    records = tuple(
        Record(
            id=f"{label + 1:03d}_{i:05d}",
            file=f"{name}/{label + 1:03d}_{i:05d}.jpg",
            label=label,
            class_name=name,
            split="test" if i % 3 == 2 else "train",
            boxes=None,
        )
        for label, name in enumerate(names)
        for i in range(images_per_class)
    )
    settings = {
        "painter": PAINTER,
        "classes": classes,
        "images_per_class": images_per_class,
        "size": size,
        "seed": seed,
    }
    return Dataset("drawn", names, records, Painter(size, seed), settings)


@dataclass(frozen=True)
class Painter:
    """Paints a record's image -> JPEG bytes and box; deterministic."""

    size: int
    seed: int

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        number = int(record.id.split("_")[1]) * MOST_CLASSES + record.label
        drawing = draw(record.label, number, size=self.size, seed=self.seed)
        _, data = cv2.imencode(".jpg", drawing.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return data.tobytes(), (drawing.box,)


def _check_whole_number(option: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise InputError(f"drawn: --{option} is {value!r}; allowed: a whole number from {low:,} to {high:,}.")
