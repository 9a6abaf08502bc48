"""The input of a backend: the encoded images of a batch and the geometries of its views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..boxes.geometry import WHOLE
from ..errors import InputError
from ..shards.reader import SplitReader, box, fetch_sample, label, meta, open_fetched
from ..shards.sample import Sample
from .backgrounds import Backgrounds, Lender
from .cache import Cache, Kept
from .draws import COUNT, LENT, lender, uniforms
from .geometry import Geometry, compute
from .mattes import Matte, Mattes
from .spec import ViewSpec


@dataclass(frozen=True)
class Work:
    """One batch to compute: n samples. The first `keep` are yielded; the rest are used only as backgrounds."""

    names: list[str]
    jpegs: list[bytes]
    sizes: np.ndarray  # (n, 2) int64, width and height in pixels
    label: np.ndarray  # (n,) int64
    index: np.ndarray  # (n,) int64, numbers within the split
    shots: dict[str, list[Geometry]]  # one geometry per view of each tensor in `ViewSpec.shots`
    keep: int
    backgrounds: list[list[Lender]]  # per view, n images of other sets; [] if not used
    lent: list[Lender]  # n images of other sets; [] if not used
    mattes: list[np.ndarray]  # n of (SIDE, SIDE) uint8; [] if not used
    box: np.ndarray | None = None  # (n, 4) float32, in [0, 1]; None if not asked for
    pixels: Sequence[np.ndarray | None] = ()  # n of (H, W, 3) uint8, None where the cache has none; () without a cache
    keep_pixels: Callable[[int, np.ndarray], None] | None = None  # position, (H, W, 3) uint8 -> into the cache

    @property
    def geometries(self) -> list[Geometry]:
        """One per view."""
        return self.shots["views"]

    @property
    def masks(self) -> np.ndarray:
        """(V, keep, 4) int32, the masks' rectangles in pixels of the flipped views."""
        return np.stack([geometry.mask[: self.keep] for geometry in self.geometries])

    def arrays(self, spec: ViewSpec) -> dict[str, np.ndarray]:
        """The tensors of the batch that need no pixels."""
        named = {"label": self.label, "index": self.index} | ({} if self.box is None else {"box": self.box})
        arrays = {name: array[: self.keep].copy() for name, array in named.items()}
        if spec.boxes:
            arrays["boxes"] = self.masks.astype(np.float32)
        return arrays


def gather(
    reader: SplitReader | Cache,
    spec: ViewSpec,
    detector: str | None,
    index: np.ndarray,
    keep: int,
    *,
    backgrounds: Backgrounds | None = None,
    mattes: Mattes | None = None,
    seed: int,
    epoch: int,
    batch: int,
    given: np.ndarray | None = None,
    yield_box: bool = False,
    fetched: list | None = None,
) -> Work:
    """Opens the samples of a batch and computes the geometries of its views.

    Args:
        reader: The split.
        spec: The views.
        detector: Whose boxes; None for the whole image.
        index: (n,) integer sample numbers within the split.
        keep: How many of them are yielded.
        backgrounds: Images of given sets; None to paste over the batch's own images.
        mattes: The mattes of the split, if the views need maps.
        seed: Key of the draws.
        epoch: Key of the draws.
        batch: The batch's number over all ranks, the key of its partners.
        given: (N, 4) boxes of all samples of the split, in place of the detector's.
        yield_box: Whether the samples' boxes are part of the batch.
        fetched: The results of its `reads`, or the exceptions that they raised; None to read here.

    Raises:
        InputError: a sample is damaged.
    """
    if fetched is None:
        fetched = [
            read()
            for read in reads(reader, spec, index, backgrounds=backgrounds, mattes=mattes, seed=seed, epoch=epoch)
        ]
    results = iter(fetched)
    samples = [open_fetched(reader, int(i), _check(next(results))) for i in index]
    metas = [meta(sample) for sample in samples]
    sizes = np.array([(m["width"], m["height"]) for m in metas], np.int64)
    if given is None:
        boxes = np.stack([box(sample, detector) if detector else WHOLE for sample in samples])
    else:
        boxes = given[index]
    lenders = len(backgrounds) if backgrounds is not None else 0
    own = backgrounds.own(index) if backgrounds is not None else None
    lent = []
    if spec.lent and backgrounds is not None:
        chosen = lender(uniforms(seed, epoch, index, LENT, COUNT), lenders, own)
        lent = [backgrounds.open(int(i), _check(next(results))) for i in chosen]
    keys = {"seed": seed, "epoch": epoch, "batch": batch}
    lent_sizes = np.array([image.size for image in lent])
    read = _check(next(results)) if mattes is not None else []
    cuts = np.stack([matte.box for matte in read]) if read else None
    shots = plan(spec, sizes, boxes, index, lent_sizes, cuts, lenders=lenders, own=own, **keys)
    behind = backgrounds if spec.pastes else None
    over = []
    if behind is not None:
        over = [[behind.open(int(i), _check(next(results))) for i in p.partner] for p in shots["views"]]
    return Work(
        names=[f"{m['id']} of split {reader.split} (sample {i})" for m, i in zip(metas, index)],
        jpegs=[sample.get("jpg", b"") for sample in samples],
        sizes=sizes,
        label=np.array([label(sample) for sample in samples], np.int64),
        index=np.asarray(index, np.int64),
        shots=shots,
        keep=keep,
        backgrounds=over,
        lent=lent,
        mattes=[matte.alpha for matte in read],
        box=boxes if yield_box else None,
        pixels=[sample.pixels if isinstance(sample, Kept) else None for sample in samples],
        keep_pixels=partial(_keep_pixels, reader, index, samples) if isinstance(reader, Cache) else None,
    )


def reads(
    reader: SplitReader | Cache,
    spec: ViewSpec,
    index: np.ndarray,
    *,
    backgrounds: Backgrounds | None = None,
    mattes: Mattes | None = None,
    seed: int,
    epoch: int,
) -> list[Callable[[], Any]]:
    """The reads of a batch, arguments as of `gather`: its samples, lent images, mattes (one read), backgrounds."""
    lenders = len(backgrounds) if backgrounds is not None else 0
    own = backgrounds.own(index) if backgrounds is not None else None
    listed: list[Callable[[], Any]] = [partial(fetch_sample, reader, int(i)) for i in index]

    def chosen(stream: int) -> np.ndarray:
        return lender(uniforms(seed, epoch, index, stream, COUNT), lenders, own)

    if spec.lent and backgrounds is not None:
        listed += [partial(backgrounds.fetch, int(i)) for i in chosen(LENT)]
    if mattes is not None:
        listed.append(partial(_read_mattes, mattes, index))  # one after another: HDF5 reads one at a time anyway
    if spec.pastes and backgrounds is not None:
        listed += [partial(backgrounds.fetch, int(i)) for v in range(spec.views) for i in chosen(v)]
    return listed


def _read_mattes(mattes: Mattes, index: np.ndarray) -> list[Matte]:
    return [mattes.read(int(i)) for i in index]


def _check(result: Any) -> Any:
    """The result of a read. Raises it if it is the exception of one."""
    if isinstance(result, BaseException):
        raise result
    return result


def _keep_pixels(cache: Cache, index: np.ndarray, samples: list[Sample], i: int, pixels: np.ndarray) -> None:
    cache.put(int(index[i]), samples[i], pixels)


def plan(
    spec: ViewSpec,
    sizes: np.ndarray,
    boxes: np.ndarray,
    index: np.ndarray,
    lent_sizes: np.ndarray,
    cuts: np.ndarray | None,
    **keys: Any,
) -> dict[str, list[Geometry]]:
    """(n, 2), (n, 4), (n,), (n, 2) sizes of lent images, (n, 4) boxes of mattes, keys of `compute` -> the shots."""
    shots = {"views": [compute(spec, sizes, boxes, index, view=v, cuts=cuts, **keys) for v in range(spec.views)]}
    if spec.local.count:
        local, streams = spec.shots["local"], range(spec.views, spec.views + spec.local.count)
        shots["local"] = [compute(local, sizes, boxes, index, view=stream, **keys) for stream in streams]
    if spec.lent:
        whole = np.tile(WHOLE, (len(index), 1))
        shots["lent"] = [compute(spec.shots["lent"], lent_sizes, whole, index, view=LENT, **keys)]
    if spec.object_size:
        shots["object"] = [compute(spec.shots["object"], sizes, boxes, index, view=0, **keys)]  # it draws nothing
    return shots


def check_size(name: str, size: tuple[int, int], stated: np.ndarray | tuple[int, int]) -> None:
    """InputError if an image's (width, height) differ from those in its json, which its geometry was computed for."""
    if size != tuple(stated):
        raise InputError(
            f"{name}: the JPEG is {size[0]} x {size[1]} pixels, but its json says {stated[0]} x {stated[1]}. "
            "The set was changed after fgdata wrote it. Restore its files, or rebuild it as `fgdata check` says."
        )
