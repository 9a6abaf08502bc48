"""The input of a backend: the encoded images of a batch and the geometries of its views."""

from dataclasses import dataclass

import numpy as np

from ..boxes.geometry import WHOLE
from ..errors import InputError
from ..shards.reader import SplitReader, box, label, meta
from .backgrounds import Backgrounds
from .geometry import Geometry, compute
from .spec import ViewSpec


@dataclass(frozen=True)
class Work:
    """One batch to compute: n samples. The first `keep` are yielded; the rest are used only as backgrounds."""

    names: list[str]
    jpegs: list[bytes]
    sizes: np.ndarray  # (n, 2) int64, width and height in pixels
    label: np.ndarray  # (n,) int64
    index: np.ndarray  # (n,) int64, numbers within the split
    geometries: list[Geometry]  # one per view
    keep: int
    backgrounds: list[list[tuple[str, bytes]]]  # per view, n names and JPEGs of other sets' images; [] if not used
    boxes: np.ndarray | None = None  # (n, 4) float32, the detector's; None if they were not asked for

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is yielded as it is, by name: label, index, and boxes if they were asked for."""
        named = {"label": self.label, "index": self.index, "boxes": self.boxes}
        return {name: array[: self.keep] for name, array in named.items() if array is not None}


def gather(
    reader: SplitReader,
    spec: ViewSpec,
    detector: str | None,
    index: np.ndarray,
    keep: int,
    *,
    backgrounds: Backgrounds | None = None,
    seed: int,
    epoch: int,
    batch: int,
    yield_boxes: bool = False,
) -> Work:
    """Reads the samples of a batch and computes the geometries of its views.

    Args:
        reader: The split.
        spec: The views.
        detector: Whose boxes; None for the whole image.
        index: (n,) integer sample numbers within the split.
        keep: How many of them are yielded.
        backgrounds: Images of other sets to paste over; None to paste over the batch's own images.
        seed: Key of the draws.
        epoch: Key of the draws.
        batch: The batch's number over all ranks, the key of its partners.
        yield_boxes: Whether the boxes are part of the batch.

    Raises:
        InputError: a sample is damaged.
    """
    samples = [reader.read(int(i)) for i in index]
    metas = [meta(sample) for sample in samples]
    sizes = np.array([(m["width"], m["height"]) for m in metas], np.int64)
    boxes = np.stack([box(sample, detector) if detector else WHOLE for sample in samples])
    lenders = len(backgrounds) if backgrounds is not None else 0
    geometries = [
        compute(spec, sizes, boxes, index, seed=seed, epoch=epoch, batch=batch, view=view, lenders=lenders)
        for view in range(spec.views)
    ]
    return Work(
        names=[f"{m['id']} of split {reader.split} (sample {i})" for m, i in zip(metas, index)],
        jpegs=[sample["jpg"] for sample in samples],
        sizes=sizes,
        label=np.array([label(sample) for sample in samples], np.int64),
        index=np.asarray(index, np.int64),
        geometries=geometries,
        keep=keep,
        backgrounds=[[backgrounds.read(int(i)) for i in p.partner] for p in geometries]
        if backgrounds is not None
        else [],
        boxes=boxes if yield_boxes else None,
    )


def check_size(name: str, size: tuple[int, int], stated: np.ndarray) -> None:
    """InputError if an image's (width, height) differ from those in its json, which its geometry was computed for."""
    if size != tuple(stated):
        raise InputError(
            f"{name}: the JPEG is {size[0]} x {size[1]} pixels, but its json says {stated[0]} x {stated[1]}. "
            "The set was changed after fgdata wrote it. Rebuild it: fgdata build-shards"
        )
