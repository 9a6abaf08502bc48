"""The views of a ViewSpec as one DALI graph: on a GPU, or on the CPU (device_id=None), as the tests do.

The graph has no random operators. Its inputs are encoded images and the numbers of a Geometry, so its views are
those of `threads`, in the same order, and the loader's state needs nothing from DALI. Views are rounded to 8 bits at
the same two points, after the resize and after the blur; the colour map stays in float32 throughout.

Traps: slice requires INT32, resize(size=) FLOAT and multi_paste's anchors INT32, or the first run fails with a type
error. multi_paste refuses a patch that exceeds its canvas. batch_permutation ignores no_fixed_points for a
single sample, so partners come from the Geometry. Arguments stay on the CPU: one on the GPU costs a transfer per step.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from ..boxes.geometry import WHOLE
from ..errors import InputError
from ..images import encode_jpeg, header
from .backgrounds import Lender
from .batch import Work, check_size, plan
from .spec import ViewSpec

try:
    from nvidia.dali import fn, math, types
    from nvidia.dali.pipeline import pipeline_def
    from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray
except ImportError:
    raise InputError(
        "The dali backend needs NVIDIA DALI, which is not installed: pip install nvidia-dali-cuda130, or use backend "
        "threads."
    ) from None

UINT8, INT32, FLOAT = types.DALIDataType.UINT8, types.DALIDataType.INT32, types.DALIDataType.FLOAT
_RESIZE = {"interp_type": types.DALIInterpType.INTERP_TRIANGULAR, "antialias": True, "dtype": UINT8}
_DEPTH = 2  # batches in DALI at once: one is decoded while the views of the other are computed


def resize(image, size):
    """Images, (2,) FLOAT (height, width) -> uint8 images, antialiased triangle filter."""
    return fn.resize(image, size=size, **_RESIZE)


def cut(image, start, shape):
    """Images, INT32 (x, y) and (w, h) in pixels -> that part of each. The arguments are named: a positional list would
    become a constant on the GPU next to a start on the CPU."""
    return fn.slice(image, start=start, shape=shape, axis_names="WH")


def paste(patch, anchors, background, size: int):
    """Patches, INT32 (2, 2) anchors [[0, 0], [y, x]], backgrounds -> (size, size, 3)."""
    return fn.multi_paste(background, patch, out_anchors=anchors, output_size=[size, size])


def place(patch, anchors, size: int):
    """Patches with one channel, anchors as of `paste` -> (size, size, 1), zero elsewhere."""
    return fn.multi_paste(patch, out_anchors=anchors[1:2], output_size=[size, size])


def blend(view, background, weight, solid):
    """The view where the weight (S, S, 1) is 255, the background where it is 0. solid: FLOAT scalar, at least which the
    weight is; on the device of the view."""
    share = math.max(fn.cast(weight, dtype=FLOAT), solid) / 255.0
    under: Any = fn.cast(background, dtype=FLOAT)
    return fn.cast(under + share * (fn.cast(view, dtype=FLOAT) - under), dtype=UINT8)


def blur(view, sigma):
    """Gaussian over 2 ceil(3 sigma) + 1 pixels; edges reflected without repeating the edge pixel."""
    return fn.gaussian_blur(view, sigma=sigma)


def recolour(view, colour, centre, mean):
    """A x + C m per pixel, clamped to [0, 255], float32."""
    shift = fn.reductions.sum(centre * mean, axes=[1])
    return math.clamp(fn.coord_transform(view, M=colour, dtype=FLOAT) + shift, 0.0, 255.0)


def solarise(view, chosen):
    """Values from 128 up, inverted where `chosen`, a FLOAT scalar on the device of the view, is 1."""
    return view + chosen * (view >= 128.0) * (255.0 - 2.0 * view)


def normalise(view, spec: ViewSpec, flip):
    """(S, S, 3) in [0, 255] -> (3, S, S) float32, mirrored where flip is 1."""
    mean, std = [255 * m for m in spec.mean], [255 * s for s in spec.std]
    return fn.crop_mirror_normalize(view, mirror=flip, mean=mean, std=std, dtype=FLOAT, output_layout="CHW")


def external(name: str, dtype, ndim: int, layout: str | None = None):
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, layout=layout)


def decode(name: str, gpu: bool):
    """Decodes the JPEGs of input `name` to RGB images."""
    return fn.decoders.image(
        external(name, UINT8, 1),
        device="mixed" if gpu else "cpu",
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=gpu,  # interpolates chroma as libjpeg and every other backend do
    )


@pipeline_def(enable_conditionals=True)
def graph(spec: ViewSpec, gpu: bool, other_sets: bool):
    """Inputs `jpeg`, `lent` and, for view v of tensor t, `start-t{v}` ... `flip-t{v}` (see `Dali._feed`) -> the views
    of each tensor, then plain, then the mattes.

    other_sets: the background of view v is decoded from `background{v}`, JPEGs of other sets; else it is in the batch.
    """
    image = decode("jpeg", gpu)
    outputs = []
    whole: Any = None
    alpha: Any = None
    mattes = []
    if spec.needs_maps:
        alpha = external("alpha", UINT8, 3, "HWC")
        alpha = resize(alpha.gpu() if gpu else alpha, external("whole", FLOAT, 1))
    if spec.plain or spec.grey or (spec.pastes and not other_sets):
        whole = resize(image, [spec.size, spec.size])
    for name, shot in spec.shots.items():
        source = decode("lent", gpu) if name == "lent" else image
        for v in range(shot.views):
            tag = f"{name}{v}"
            start, shape = external(f"start-{tag}", INT32, 1), external(f"shape-{tag}", INT32, 1)
            target = external(f"size-{tag}", FLOAT, 1)
            view: Any = resize(cut(source, start, shape), target)
            matte: Any = None
            if shot.needs_maps:
                matte = resize(cut(alpha, start, shape), target)
            if shot.pastes or shot.grey:
                if shot.grey:
                    level = external(f"grey{v}", UINT8, 0)
                    background = fn.cast(whole * 0 + (level.gpu() if gpu else level), dtype=UINT8)
                elif other_sets:
                    background = resize(decode(f"background{v}", gpu), [shot.size, shot.size])
                else:
                    background = fn.permute_batch(whole, indices=external(f"partner{v}", INT32, 0))
                anchors = external(f"anchors{v}", INT32, 2)
                view = paste(view, anchors, background, shot.size)
                if shot.needs_maps:
                    matte = place(matte, anchors, shot.size)
                if shot.crop == "matte-paste":
                    solid = external(f"solid{v}", FLOAT, 0)
                    view = blend(view, background, matte, solid.gpu() if gpu else solid)
            if shot.crop == "centre":
                inset = external(f"inset{v}", INT32, 1)
                view = cut(view, inset, [shot.size, shot.size])
                if shot.needs_maps:
                    matte = cut(matte, inset, [shot.size, shot.size])
            mean = fn.reductions.mean(view, axes=[0, 1])
            sigma: Any = external(f"sigma-{tag}", FLOAT, 0)  # DALI rewrites an `if` on data as a split of the batch
            if sigma > 0:
                view = blur(view, sigma)
            centre = external(f"centre-{tag}", FLOAT, 2)
            if gpu:
                centre = centre.gpu()
            view = recolour(view, external(f"colour-{tag}", FLOAT, 2), centre, mean)
            if shot.chance("solarize", v):
                chosen = external(f"solarize-{tag}", FLOAT, 0)
                view = solarise(view, chosen.gpu() if gpu else chosen)
            flip = external(f"flip-{tag}", INT32, 0)
            outputs.append(normalise(view, shot, flip))
            if shot.mattes:
                mattes.append(
                    fn.crop_mirror_normalize(matte, mirror=flip, std=[255.0], dtype=FLOAT, output_layout="CHW")
                )
    if spec.plain:
        outputs.append(normalise(whole, spec, 0))
    return tuple(outputs + mattes)


class Dali:
    """Computes batches in a DALI pipeline; one thread feeds it and fetches its outputs."""

    def __init__(self, spec: ViewSpec, batch_size: int, threads: int, device: torch.device, *, other_sets: bool):
        gpu = device.type == "cuda"
        self._spec, self._device, self._other_sets = spec, device, other_sets
        number = (device.index if device.index is not None else torch.cuda.current_device()) if gpu else None
        self._pipeline = graph(
            spec,
            gpu,
            other_sets,
            batch_size=batch_size,
            num_threads=threads,
            device_id=number,
            prefetch_queue_depth=_DEPTH,
        )
        self._pipeline.build()
        self._stream = torch.cuda.Stream(device) if gpu else None  # its own, so fetching does not wait for training
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._closed = False
        self._prime()
        self._thread = threading.Thread(target=self._work, name="fgdata-views-dali", daemon=True)
        self._thread.start()

    def submit(self, rank: int, gather: Callable[[], Work]) -> Future:
        """Queues a batch; batches are computed in order of submission. The future's result is a dict of tensors."""
        future: Future = Future()
        self._tasks.put((gather, future))
        return future

    def close(self) -> None:
        self._closed = True
        self._tasks.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _prime(self) -> None:
        """Runs two small images: DALI's first schedule_run takes _DEPTH batches at once, each later one takes one."""
        side, samples = 16, np.arange(2)
        boxes, sizes = np.tile(WHOLE, (2, 1)), np.full((2, 2), side)
        jpeg = encode_jpeg(np.full((side, side, 3), 128, np.uint8))
        lent = [Lender("", jpeg, (side, side))] * 2
        keys = {"seed": 0, "epoch": 0, "batch": 0, "lenders": int(self._other_sets)}
        shots, alpha = plan(self._spec, sizes, boxes, samples, sizes, boxes, **keys), np.zeros((side, side), np.uint8)
        backgrounds = [lent] * self._spec.views
        work = Work(["", ""], [jpeg] * 2, sizes, samples, samples, shots, 2, backgrounds, lent, [alpha] * 2)
        for _ in range(_DEPTH):
            self._feed(work)
        self._pipeline.schedule_run()
        for _ in range(_DEPTH):
            self._fetch(work)

    def _work(self) -> None:
        """The thread's loop. It feeds the next batch before it fetches one, so the next is decoded meanwhile."""
        inside: deque[tuple[Work, Future]] = deque()
        while True:
            task = self._next(wait=not inside) if len(inside) < _DEPTH else None
            if self._closed:
                return
            if task is not None:
                gather, future = task
                if future.cancelled():
                    continue
                try:
                    work = gather()
                    self._feed(work)
                    self._pipeline.schedule_run()
                    inside.append((work, future))
                except BaseException as fault:
                    _fail(future, fault)
            elif inside:
                work, future = inside.popleft()
                try:
                    tensors = self._fetch(work)
                except BaseException as fault:
                    _fail(
                        future,
                        RuntimeError(f"DALI failed on a batch of {len(work.names)} from {work.names[0]}: {fault}"),
                    )
                else:
                    if future.set_running_or_notify_cancel():
                        future.set_result(tensors)

    def _next(self, *, wait: bool) -> tuple[Callable[[], Work], Future] | None:
        with contextlib.suppress(queue.Empty):
            return self._tasks.get(block=wait)
        return None

    def _feed(self, work: Work) -> None:
        for name, jpeg, size in [*zip(work.names, work.jpegs, work.sizes), *(work.lent if self._spec.lent else [])]:
            try:
                frame = header(jpeg, name)
            except InputError:  # a damaged image, which DALI reports when it decodes it
                continue
            check_size(name, (frame.width, frame.height), size)
        feed = self._pipeline.feed_input
        feed("jpeg", [np.frombuffer(jpeg, np.uint8) for jpeg in work.jpegs])
        if self._spec.lent:
            feed("lent", [np.frombuffer(image.jpeg, np.uint8) for image in work.lent])
        if self._spec.needs_maps:
            feed("alpha", [alpha[..., None] for alpha in work.mattes])
            feed("whole", work.sizes[:, ::-1].astype(np.float32))  # height, width
        for v, p in enumerate(work.geometries):
            if self._spec.grey:
                feed(f"grey{v}", p.grey)
            if self._spec.crop == "matte-paste":
                feed(f"solid{v}", np.where(p.blend, 0, 255).astype(np.float32))
            if self._spec.pastes and self._other_sets:
                feed(f"background{v}", [np.frombuffer(image.jpeg, np.uint8) for image in work.backgrounds[v]])
            elif self._spec.pastes:
                feed(f"partner{v}", p.partner)
            if self._spec.pastes or self._spec.grey:
                feed(f"anchors{v}", np.stack([np.zeros_like(p.place[:, :2]), p.place[:, 1::-1]], 1))
            if self._spec.crop == "centre":
                feed(f"inset{v}", -p.place[:, :2])
        shots = self._spec.shots
        for name, v, p in ((name, v, p) for name, views in work.shots.items() for v, p in enumerate(views)):
            tag = f"{name}{v}"
            feed(f"start-{tag}", p.source[:, :2].copy())
            feed(f"shape-{tag}", p.source[:, 2:].copy())
            feed(f"size-{tag}", p.place[:, :1:-1].astype(np.float32))  # height, width
            feed(f"sigma-{tag}", p.sigma)
            feed(f"centre-{tag}", p.centre)
            feed(f"colour-{tag}", p.colour)
            feed(f"flip-{tag}", p.flip.astype(np.int32))
            if shots[name].chance("solarize", v):
                feed(f"solarize-{tag}", p.solarize.astype(np.float32))

    def _fetch(self, work: Work) -> dict[str, torch.Tensor]:
        outputs = self._pipeline.outputs()
        with torch.cuda.stream(self._stream):
            copies = iter([self._copy(output.as_tensor())[: work.keep] for output in outputs])
            tensors, shapes = {}, self._spec.tensors
            for name, shots in work.shots.items():
                views = [next(copies) for _ in shots]
                tensors[name] = torch.stack(views) if len(shapes[name]) == 5 else views[0]
            if self._spec.plain:
                tensors["plain"] = next(copies)
            if self._spec.mattes:
                tensors["mattes"] = torch.stack(list(copies))
            if self._spec.masks:
                shape = (work.keep if n == -1 else n for n in shapes["masks"])
                tensors["masks"] = torch.empty(*shape, device=self._device)
                _fill_masks(tensors["masks"], work)
            for name, array in work.arrays(self._spec).items():
                tensors[name] = torch.from_numpy(array).to(self._device)
        if self._stream is not None:
            self._stream.synchronize()
        return tensors

    def _copy(self, output) -> torch.Tensor:
        """Copies an output, because DALI reuses its memory at the next call of `outputs`."""
        tensor = torch.empty(output.shape(), device=self._device)
        feed_ndarray(output, tensor, cuda_stream=self._stream)
        return tensor


def _fail(future: Future, fault: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(fault)


def _fill_masks(masks: torch.Tensor, work: Work) -> None:
    """Paints (V, B, 1, S, S): 1 inside each view's mask rectangle, 0 outside."""
    size = masks.shape[-1]
    x, y, w, h = torch.from_numpy(np.stack([p.mask[: work.keep] for p in work.geometries])).to(masks.device).unbind(-1)
    line = torch.arange(size, device=masks.device)
    rows = (line >= y[..., None]) & (line < (y + h)[..., None])  # (V, B, S)
    columns = (line >= x[..., None]) & (line < (x + w)[..., None])
    torch.mul(rows[:, :, None, :, None].float(), columns[:, :, None, None, :].float(), out=masks)
