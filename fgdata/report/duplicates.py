"""`fgdata check --duplicates`: images that are copies of each other, also rescaled, compressed again or mirrored.

Each image becomes SIDE x SIDE grey pixels. Two images are near-duplicates if the perceptual hashes of these pixels
(OpenCV's PHash: 64 signs of low frequencies) differ in at most MOST_BITS bits and the pixels correlate by at least
LEAST_CORRELATION. The hash finds candidates quickly. Many images of a bird before the sky have nearly the same hash;
the correlation tells them apart. docs/datasets.md says how both limits were chosen.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import cv2
import numpy as np

from ..cores import available_cores
from ..images import decode
from ..progress import Progress
from ..shards.reader import ShardSet, SplitReader, label, meta

MOST_BITS = 8
LEAST_CORRELATION = 0.9
SIDE = 32
"""PHash resizes to this side itself, but without averaging: its hash of a rescaled copy differs in more bits."""
_ROWS = 64  # hashes that are compared with all others at once: their differences stay in the processor's cache
_IMAGES = 256  # that are decoded by the threads at a time


@dataclass(frozen=True)
class Image:
    """One sample of the set."""

    split: str
    id: str
    file: str
    class_name: str


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates in different splits."""

    first: Image
    second: Image
    bits: int
    """Bits in which their hashes differ."""
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates of a shard set."""

    images: dict[str, int]
    """Images by split."""
    across: tuple[Pair, ...]
    """Every pair in two splits; `first` is in the split that the manifest lists first."""
    within: dict[str, int]
    """Pairs by split."""

    @property
    def repeated(self) -> dict[str, int]:
        """Images by split that have a near-duplicate in another split."""
        images = {image for pair in self.across for image in (pair.first, pair.second)}
        counts = Counter(image.split for image in images)
        return {split: counts[split] for split in self.images}

    def as_json(self) -> dict:
        """All figures and pairs, as a JSON value."""
        return {
            "most_bits": MOST_BITS,
            "least_correlation": LEAST_CORRELATION,
            "images": self.images,
            "repeated": self.repeated,
            "within": self.within,
            "across": [asdict(pair) for pair in self.across],
        }


def find_duplicates(shards: ShardSet) -> Duplicates:
    """Decodes every image of a set and compares all pairs. Shows the progress of both.

    Args:
        shards: The set.

    Raises:
        InputError: A sample is damaged.

    Example:
        for pair in find_duplicates(ShardSet.open("shards/cub")).across:
            print(pair.first.file, pair.second.file)
    """
    images: list[Image] = []
    total = sum(shards.splits.values())
    pixels = np.empty((total, SIDE, SIDE), np.uint8)
    with (
        Progress("Decoding", total) as progress,
        ThreadPoolExecutor(available_cores()) as pool,
    ):  # reading and decoding release the GIL
        for split in shards.splits:
            reader = shards.split(split)
            for start in range(0, len(reader), _IMAGES):
                numbers = range(start, min(start + _IMAGES, len(reader)))
                for image, grey in pool.map(partial(_read, shards, reader), numbers):
                    pixels[len(images)] = grey
                    images.append(image)
                progress.advance(len(numbers))
    across, within = [], Counter()
    with Progress("Comparing", total) as progress:
        for i, j, bits, correlation, mirrored in compare(pixels, progress.advance):
            if images[i].split == images[j].split:
                within[images[i].split] += 1
            else:
                across.append(Pair(images[i], images[j], bits, correlation, mirrored))
    return Duplicates(dict(shards.splits), tuple(across), {split: within[split] for split in shards.splits})


def _read(shards: ShardSet, reader: SplitReader, number: int) -> tuple[Image, np.ndarray]:
    sample = reader.read(number)
    about = meta(sample)
    image = Image(reader.split, about["id"], about["file"], shards.classes[label(sample)])
    return image, grey_pixels(sample["jpg"], image.file)


def grey_pixels(data: bytes, name: str) -> np.ndarray:
    """An encoded image -> (SIDE, SIDE) uint8. `name` names it in messages. InputError if it cannot be decoded."""
    grey = cv2.cvtColor(decode(data, name, least_side=2 * SIDE), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def compare(
    pixels: np.ndarray, advance: Callable[[int], None] = lambda images: None
) -> Iterator[tuple[int, int, int, float, bool]]:
    """(N, SIDE, SIDE) uint8 -> (i, j, bits, correlation, mirrored) of every near-duplicate pair i < j, in order.

    A pair that matches both as stored and mirrored is yielded once, as the better match. An image of one grey level
    matches none. advance: called with the number of images that were just compared with all later ones.
    """
    mirrors = np.ascontiguousarray(pixels[:, :, ::-1])
    hashes, mirrored_hashes = _hash(pixels), _hash(mirrors)
    for start in range(0, len(pixels), _ROWS):
        rows = slice(start, start + _ROWS)
        found: dict[tuple[int, int], tuple[int, float, bool]] = {}
        for others, other_hashes, mirrored in ((pixels, hashes, False), (mirrors, mirrored_hashes, True)):
            bits = np.bitwise_count(hashes[rows, None] ^ other_hashes[None, start:])  # (_ROWS, N - start)
            near = np.flatnonzero(bits <= MOST_BITS)
            for flat in near[near // bits.shape[1] < near % bits.shape[1]]:  # i < j
                i, j = divmod(int(flat), bits.shape[1])
                r = _correlation(pixels[start + i], others[start + j])
                pair = start + i, start + j
                if r >= LEAST_CORRELATION and (pair not in found or r > found[pair][1]):
                    found[pair] = int(bits[i, j]), r, mirrored
        yield from ((*pair, *found[pair]) for pair in sorted(found))
        advance(len(hashes[rows]))


def _hash(pixels: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE) uint8 -> (N,) uint64."""
    return np.array([cv2.img_hash.pHash(image)[0] for image in pixels], np.uint8).reshape(-1, 8).view(np.uint64)[:, 0]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two images; 0 if one of them has a single grey level."""
    a, b = (image.ravel() - image.mean() for image in (first, second))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0
