"""The views of a ViewSpec on the CPU: kernels of OpenCV, torch and numba, which release the GIL, in a pool of threads.

Each image is decoded once, for its own views and for the views of other samples whose background it is.
A background from another set is decoded for each view that uses it. Views are rounded to 8 bits after the resize and
after the blur. Colour, clamp, flip and normalisation are one pass (`finish`), which writes float32 planes into the
batch's memory. Blur precedes colour here: both are linear, and the clamp still comes last. A backend of 8-bit batches
stops after resize and paste (`unfinished`).

The resize is torch's antialiased bilinear (Pillow's and torchvision's triangle filter, within one level of Pillow's):
0.16 ms for an 8-bit 224-pixel view on one core, against 0.43 ms for OpenCV's INTER_AREA, a box filter. If neither side
shrinks, the triangle is plain bilinear, for which OpenCV takes 0.05 ms.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import cv2
import numpy as np
import torch

from ..errors import InputError, is_reported
from ..images import decode, name_image
from . import unfinished
from .batch import Work, check_size
from .finish import finish
from .geometry import Geometry
from .pool import Buffers, Pool
from .spec import ViewSpec

_SMALLER = "Use a smaller batch or fewer threads, or a machine with more memory."
_IDENTITY, _NONE = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)


def resize(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 -> (height, width, 3) or (height, width) uint8, antialiased triangle filter."""
    if width >= rgb.shape[1] and height >= rgb.shape[0]:
        return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    planes = torch.from_numpy(np.ascontiguousarray(rgb.reshape(*rgb.shape[:2], -1))).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)[0]
    return cv2.merge([plane.numpy() for plane in small.contiguous()])


def cut(rgb: np.ndarray, source: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Cuts the rectangle `source` from an image and resizes it to the size of `place`."""
    x, y, w, h = source
    return resize(rgb[y : y + h, x : x + w], int(place[2]), int(place[3]))


def paste(patch: np.ndarray, place: np.ndarray, background: np.ndarray | None, size: int) -> np.ndarray:
    """Pastes a patch at its place over a copy of the background -> (size, size, 3). The excess is cut off."""
    x, y, w, h = (int(value) for value in place)
    inside = patch[max(0, -y) : size - y, max(0, -x) : size - x]
    if inside.shape[:2] == (size, size) or background is None:
        return inside
    view = background.copy()
    view[max(0, y) : y + h, max(0, x) : x + w] = inside
    return view


def blend(patch: np.ndarray, background: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8, (S, S, 3) uint8, (S, S) uint8 -> the patch where the weight is 255, the background where it is
    0."""
    share = weight[..., None].astype(np.float32) / 255
    return np.rint(share * patch + (1 - share) * background).astype(np.uint8)


def blur(view: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian, truncated at the first whole pixel beyond 3 sigma; edges reflected without repeating the edge pixel."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-(np.arange(-radius, radius + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def paint(mask: np.ndarray, out: np.ndarray) -> None:
    """Writes a mask into (S, S) float32: 1 inside the rectangle, 0 outside."""
    x, y, w, h = mask
    out[:] = 0
    out[y : y + h, x : x + w] = 1


def _open_image(name: str, jpeg: bytes, size: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Decodes an image of this (width, height)."""
    image = decode(jpeg, name)
    check_size(name, (image.shape[1], image.shape[0]), size)
    return image


class Threads:
    """Computes batches in its own `threads` threads.

    It disables OpenCV's internal threads for the whole process (cv2.setNumThreads has no narrower scope), because they
    would only compete with the pool. With `eight_bit` it computes 8-bit batches.
    """

    def __init__(
        self,
        spec: ViewSpec,
        threads: int,
        *,
        pinned: bool,
        eight_bit: bool = False,
        buffers: Buffers | None = None,
    ):
        """buffers: the memory of batches that are not pinned."""
        cv2.setNumThreads(1)
        self._spec, self._pinned, self.eight_bit = spec, pinned, eight_bit
        self._compile()
        self._pool, self._buffers = Pool(threads), buffers or Buffers()

    def submit(self, rank: int, gather: Callable[[], Work], future: Future) -> None:
        """Starts a batch; lower ranks are computed first. The future's result is a dict of CPU tensors."""
        self._pool.put(rank, self._begin, rank, gather, future)

    def close(self) -> None:
        self._pool.close()

    def _begin(self, rank: int, gather: Callable[[], Work], future: Future) -> None:
        if future.cancelled():
            return
        try:
            batch = _Batch(gather(), future, rank, self._tensors)
        except BaseException as fault:
            if future.set_running_or_notify_cancel():
                future.set_exception(fault)
            return
        for i in range(len(batch.work.jpegs)):
            self._pool.put(rank, self._do, self._open, batch, i)

    def _do(self, step: Callable, batch: "_Batch", i: int) -> None:
        if batch.future.done():  # cancelled, or another of its samples failed
            return
        try:
            with name_image(batch.work.names[i], _SMALLER):
                step(batch, i)
        except BaseException as fault:
            batch.fail(i, fault)

    def _open(self, batch: "_Batch", i: int) -> None:
        """Decodes sample i and stores its patches; the last sample to finish starts the compositions."""
        work, size = batch.work, self._spec.size
        image = work.pixels[i] if work.pixels else None
        if image is None:
            image = _open_image(work.names[i], work.jpegs[i], work.sizes[i])
            if work.keep_pixels is not None:
                work.keep_pixels(i, image)
        swaps = self._spec.pastes and not work.backgrounds  # backgrounds are the batch's own images
        if self._spec.plain or swaps:
            batch.whole[i] = resize(image, size, size)
        if i < work.keep:
            for name, shots in work.shots.items():
                source = _open_image(*work.lent[i]) if name == "lent" else image
                batch.patches[i][name] = [cut(source, p.source[i], p.place[i]) for p in shots]
            if work.mattes:
                alpha = resize(work.mattes[i], *map(int, work.sizes[i]))
                patches = [cut(alpha, p.source[i], p.place[i]) for p in work.geometries]
                canvas = np.zeros((size, size), np.uint8)
                batch.patches[i]["mattes"] = [
                    paste(x, p.place[i], canvas, size) for x, p in zip(patches, work.geometries)
                ]
        if not swaps:
            self._compose(batch, i)
        elif batch.count_down():
            batch.left = work.keep
            for j in range(work.keep):
                self._pool.put(batch.rank, self._do, self._compose, batch, j)

    def _compose(self, batch: "_Batch", i: int) -> None:
        spec, work = self._spec, batch.work
        for name, shots in work.shots.items():
            tensor = batch.tensors[name].numpy()
            out = tensor[:, i] if tensor.ndim == 5 else tensor[None, i]
            for v, geometry in enumerate(shots):
                view = batch.patches[i][name][v]
                if name == "views":
                    blends, covers = geometry.blend[i], min(view.shape[:2]) >= spec.size
                    background = None if covers and not blends else self._background(batch, v, i)
                    view = paste(view, geometry.place[i], background, spec.size)
                    if blends and background is not None:
                        view = blend(view, background, batch.patches[i]["mattes"][v])
                if self.eight_bit:
                    out[v] = view
                else:
                    _finish(view, geometry, i, spec, out[v])
        if spec.masks and not self.eight_bit:
            for geometry, masks in zip(work.geometries, batch.tensors["masks"].numpy()):
                paint(geometry.mask[i], masks[i, 0])
        if spec.mattes:
            for matte, geometry, out in zip(
                batch.patches[i]["mattes"], work.geometries, batch.tensors["mattes"].numpy()
            ):
                matte = matte[:, ::-1] if geometry.flip[i] else matte
                if self.eight_bit:
                    out[i, 0] = matte
                else:
                    np.divide(matte, 255, out=out[i, 0], dtype=np.float32)
        if spec.plain:
            out = batch.tensors["plain"].numpy()[i]
            if self.eight_bit:
                out[:] = batch.whole[i]
            else:
                finish(batch.whole[i], _IDENTITY, _NONE, False, spec, out)
        batch.patches[i] = {}
        if batch.count_down():
            batch.complete()

    def _background(self, batch: "_Batch", v: int, i: int) -> np.ndarray | None:
        if self._spec.grey:
            return np.full((self._spec.size, self._spec.size, 3), batch.work.geometries[v].grey[i])
        if not batch.work.backgrounds:
            return batch.whole[batch.work.geometries[v].partner[i]]
        name, jpeg, _ = batch.work.backgrounds[v][i]
        return resize(decode(jpeg, name), self._spec.size, self._spec.size)

    def _compile(self) -> None:
        """Compiles or loads `finish` now, because all first tasks would wait for it."""
        finish(np.zeros((1, 1, 3), np.uint8), _IDENTITY, _NONE, False, self._spec, np.empty((3, 1, 1), np.float32))

    def _tensors(self, work: Work) -> dict[str, torch.Tensor]:
        """The tensors of a batch: those without pixels complete, the others uninitialised."""
        shapes, arrays = self._spec.tensors, work.arrays(self._spec)
        if self.eight_bit:
            shapes, arrays = unfinished.shapes(self._spec), arrays | unfinished.draws(work, self._spec)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        for name, shape in shapes.items():
            if name not in tensors:
                tensors[name] = self._empty(tuple(work.keep if n == -1 else n for n in shape))
        return tensors

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._pinned:  # torch reuses pinned memory itself, once copies from it have finished
            return torch.empty(shape, dtype=torch.uint8 if self.eight_bit else torch.float32, pin_memory=True)
        return torch.from_numpy(self._buffers.take(shape, np.uint8 if self.eight_bit else np.float32))


def _finish(view: np.ndarray, geometry: Geometry, i: int, spec: ViewSpec, out: np.ndarray) -> None:
    """(S, S, 3) uint8 -> (3, S, S) float32 into `out`: view of sample i blurred, coloured, flipped and normalised."""
    has_shift = geometry.centre[i].any()
    shift = geometry.centre[i] @ cv2.mean(view)[:3] if has_shift else _NONE  # C m, from before the blur
    if geometry.sigma[i] > 0:
        view = blur(view, geometry.sigma[i])
    finish(view, geometry.colour[i], shift, geometry.flip[i], spec, out, geometry.solarize[i])


class _Batch:
    """A batch in preparation: its samples' patches and backgrounds, its tensors, and how many parts are left."""

    def __init__(self, work: Work, future: Future, rank: int, tensors: Callable[[Work], dict[str, torch.Tensor]]):
        self.work, self.future, self.rank = work, future, rank
        self.whole: list = [None] * len(work.jpegs)
        self.patches: list[dict[str, list]] = [{} for _ in work.jpegs]  # by the name of the tensor
        self.left = len(work.jpegs)
        self._lock = threading.Lock()
        self._failed = False
        self.tensors = tensors(work)

    def count_down(self) -> bool:
        """Counts one part as done; True for the last part."""
        with self._lock:
            self.left -= 1
            return self.left == 0

    def complete(self) -> None:
        """Sets the future's result."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(self.tensors)

    def fail(self, i: int, fault: BaseException) -> None:
        """Sets the future's exception, naming sample i; only the first failure counts.

        An error of the system keeps its type: `run_command` reports it in one line.
        """
        with self._lock:
            first, self._failed = not self._failed, True
        if not first or not self.future.set_running_or_notify_cancel():
            return
        if not isinstance(fault, InputError) and not is_reported(fault):
            cause, fault = fault, RuntimeError(f"{self.work.names[i]}: {type(fault).__name__}: {fault}")
            fault.__cause__ = cause
        self.future.set_exception(fault)
