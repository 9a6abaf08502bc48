"""The views of a ViewSpec as one DALI graph: on a GPU, or on the CPU (device_id=None), as the tests do.

Its inputs are encoded images and the numbers of a Geometry, so its views are those of `threads`, in the same order, and
the loader's state needs nothing from DALI. Views are rounded to 8 bits at the same points, after the resize, the blend
and the blur; the colour map stays in float32 throughout.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

from ..boxes.geometry import WHOLE
from ..errors import InputError
from ..images import encode_jpeg, header
from .backgrounds import Lender
from .batch import Work, check_size, plan
from .dali_graph import graph
from .spec import ViewSpec
from .unfinished import paint

_DEPTH = 2  # batches in DALI at once: one is decoded while the views of the other are computed


class Dali:
    """Computes batches in a DALI pipeline; one thread feeds it and fetches its outputs."""

    eight_bit = False

    def __init__(self, spec: ViewSpec, batch_size: int, threads: int, device: torch.device, *, other_sets: bool):
        gpu = device.type == "cuda"
        if gpu and device.index is None:  # set_device and the pipeline want a number
            device = torch.device("cuda", torch.cuda.current_device())
        self._spec, self._device, self._other_sets = spec, device, other_sets
        self._pipeline = graph(
            spec,
            gpu,
            other_sets,
            batch_size=batch_size,
            num_threads=threads,
            device_id=device.index if gpu else None,
            prefetch_queue_depth=_DEPTH,
        )
        self._pipeline.build()
        self._stream = torch.cuda.Stream(device) if gpu else None  # its own, so fetching does not wait for training
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._closed = False
        self._prime()
        self._thread = threading.Thread(target=self._work, name="fgdata-views-dali", daemon=True)
        self._thread.start()

    def submit(self, rank: int, gather: Callable[[], Work], future: Future) -> None:
        """Queues a batch; batches are computed in order of submission. The future's result is a dict of tensors."""
        self._tasks.put((gather, future))

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
        """The thread. What ends its loop fails every batch, since none may wait for a thread that is gone."""
        inside: deque[tuple[Work, Future]] = deque()
        try:
            self._loop(inside)
        except BaseException as fault:
            for _, future in inside:
                _fail(future, fault)
            while (task := self._tasks.get()) is not None:
                _fail(task[1], fault)

    def _loop(self, inside: deque[tuple[Work, Future]]) -> None:
        """Feeds the next batch before it fetches one, so the next is decoded meanwhile."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a new thread's current device is the first GPU
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
                tensors["masks"] = paint(torch.from_numpy(work.masks).to(self._device), self._spec.size)
            for name, array in work.arrays(self._spec).items():
                tensors[name] = torch.from_numpy(array).to(self._device)
        if self._stream is not None:
            self._stream.synchronize()
        return tensors

    def _copy(self, output) -> torch.Tensor:
        """Copies an output, because DALI reuses its memory at the next call of `outputs`."""
        from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray  # here: dali_graph says what to install

        tensor = torch.empty(output.shape(), device=self._device)
        feed_ndarray(output, tensor, cuda_stream=self._stream)
        return tensor


def _fail(future: Future, fault: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(fault)
