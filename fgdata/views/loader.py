"""Batches of views from a shard set: exact epochs, of equal length on every rank, that resume at the same next batch.

An epoch visits the split in a permutation keyed by (seed, epoch), cut into global batches of world_size * batch_size;
rank r takes the r-th part of each. With `shuffle_block` it shuffles within blocks of tars, whose order is random too. A
sample's draws are keyed by (seed, epoch, sample, view). The next batch is thus a function of (seed, epoch, batches
done), which is the loader's whole state, on every backend and for any number of threads.

    last_batch   if world_size * batch_size does not divide the split
    drop         the remaining samples are left out of this epoch
    wrap         the last global batch is filled with the first samples of the same order
    keep         the last global batch is short: its parts differ by at most one sample, and a rank without any has one
                 batch less, so every sample occurs exactly once over all ranks

SaliencySwap and the other crops that paste take their backgrounds from the batch. A batch of a single sample takes the
next sample of the epoch's order as its background, and still yields one sample; a split of a single sample is refused.
With `backgrounds` they come from other shard sets instead: each view of each sample draws one, keyed like its other
draws, uniformly over all samples of all splits of those sets.
"""

import json
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError
from ..shards.reader import ShardSet
from .backgrounds import open_backgrounds
from .making import Job, Maker
from .opening import check_cache_dir, choose_detector, find_device, open_set
from .reading import WINDOW
from .spec import ViewSpec

if TYPE_CHECKING:
    import torch


class Loader:
    """Iterates over batches of views of a shard set. Each iteration runs the next epoch and yields dicts of tensors on
    the loader's device:

        views   (V, B, 3, S, S) float32, normalised
        masks   (V, B, 1, S, S) float32 in {0, 1}, if the spec has masks
        plain   (B, 3, S, S) float32, normalised, if the spec has plain
        label   (B,) int64
        index   (B,) int64, sample numbers within the split
        local   (L, B, 3, s, s) float32, normalised: the local crops, if the spec has local
        mattes  (V, B, 1, S, S) float32 in [0, 1], the object's matte in each view, if the spec has mattes
        boxes   (V, B, 4) float32, the masks' rectangles (left, top, width, height) in pixels of the view, if the spec
                has boxes
        lent    (B, 3, S, S) float32, normalised: a view of an image of the backgrounds, if the spec has lent
        object  (B, 3, s, s) float32, normalised: the crop of the sample's box, if the spec has object_size s
        box     (B, 4) float32, the detector's (left, top, width, height) in [0, 1] of the stored image, with box=True

    Leaving an epoch before its end abandons it: the next iteration starts the following epoch, unless
    `load_state_dict` is called. Close the loader, or use it in a `with`:

        with fgdata.load("shards/cub", views=fgdata.ViewSpec(size=224), batch_size=64) as loader:
            for batch in loader:
                x1, x2 = batch["views"]

    Args:
        path: The folder of a shard set, its URL, or an open ShardSet.
        views: The views of each image.
        batch_size: Samples in a batch, per rank; 1 or more.
        split: Name of the split. Default: train.
        detector: Whose boxes. Default: the set's first detector other than gt, else gt.
        backgrounds: Shard sets over whose images crops are pasted, and from which `lent` views come; they need no
            boxes. The set itself may be one of them: its own images are then those of the split. Default: none.
        backend: threads, dali, or auto (default): dali on a CUDA device if DALI is installed, else threads.
        seed: Determines the order and every draw; 0 to 2^64 - 1. Default: 0.
        rank, world_size: Which part of each global batch this loader yields. Default: 0 of 1, all of it.
        shuffle: Whether to shuffle; False yields the samples in the set's order. Default: True.
        shuffle_block: Tars whose samples are shuffled together, 1 or more: the tars are put into a random order, and
            so many of them at a time are a block. Reads then stay within a few files, which suits disks and network
            storage. Default: one shuffle of the whole split.
        last_batch: drop (default), wrap or keep; see the top of this file.
        box: Also yield each sample's box. Default: False.
        threads: Threads that make views. Default: the available cores, divided among the ranks of this machine where
            LOCAL_WORLD_SIZE states their number, as under torchrun.
        device: Device of the tensors. Default: cpu.
        readers: Threads that read, most of which wait for storage. Default: 32 for each of the available cores, counted
            as for `threads`; at most 128.
        ahead: Batches that are read in advance, the next one included; at most three of them are computed. Default:
            three, and as many more as have twice as many samples as there are readers.
        output: uint8 yields 8-bit batches, with which the views are a quarter of the bytes: as after resize and paste,
            with the draws that `finish` needs; views/unfinished.py lists the tensors. It needs the backend threads,
            which auto then is. Default: float32.
        cache: ram keeps the decoded images of the split in memory, 3 bytes per pixel, so that each is read and decoded
            once; not those of backgrounds. Every process has its own. Backend auto is then threads. Default: none.
        process: Whether to read and make the batches in a separate process, which does not compete with the caller
            for Python's lock; see views/process.py. Linux only, and not for DALI on a GPU. Default: False.
        cache_dir, cache_gb: For sets given by URL, backgrounds too: a folder that keeps copies of their tars; see
            `ShardSet.open`. Default: none.

    Raises:
        InputError: the set lacks the split or the boxes, the split cannot fill a batch, an argument is out of range,
            the backgrounds cannot be used, the decoded images do not fit into memory, or the device or backend is not
            available.
    """

    def __init__(
        self,
        path: "str | Path | ShardSet",
        *,
        views: ViewSpec,
        batch_size: int,
        split: str = "train",
        detector: str | None = None,
        backgrounds: "str | Path | ShardSet | Sequence[str | Path | ShardSet]" = (),
        backend: Literal["auto", "threads", "dali"] = "auto",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        last_batch: Literal["drop", "wrap", "keep"] = "drop",
        threads: int | None = None,
        device: "str | torch.device" = "cpu",
        box: bool = False,
        readers: int | None = None,
        ahead: int | None = None,
        cache: Literal["ram"] | None = None,
        shuffle_block: int | None = None,
        output: Literal["float32", "uint8"] = "float32",
        process: bool = False,
        cache_dir: str | Path | None = None,
        cache_gb: float = 50.0,
    ):
        if not isinstance(views, ViewSpec):
            raise InputError(f"views is {views!r}; allowed: an fgdata.ViewSpec, such as fgdata.ViewSpec(size=224).")
        lenders = [backgrounds] if isinstance(backgrounds, str | Path | ShardSet) else backgrounds
        check_cache_dir(cache_dir, [path, *lenders])
        shards = open_set(path, cache_dir, cache_gb)
        self._reader = shards.split(split)
        boxed = views.needs_boxes or views.needs_maps or detector or box
        detector = choose_detector(shards, detector) if boxed else None
        others = open_backgrounds(lenders, shards, split, views, cache_dir, cache_gb)
        _need_whole(seed=seed, batch_size=batch_size, rank=rank, world_size=world_size)
        _need_whole(threads=threads, readers=readers, ahead=ahead, shuffle_block=shuffle_block)
        seed, batch_size, rank, world_size = map(int, (seed, batch_size, rank, world_size))  # also NumPy's integers
        shuffle_block = None if shuffle_block is None else int(shuffle_block)
        job = self._job = Job(
            shards=shards,
            split=split,
            views=views,
            detector=detector,
            backgrounds=others,
            batch_size=batch_size,
            last_batch=last_batch,
            backend=backend,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            shuffle_block=shuffle_block,
            box=box,
            threads=threads,
            readers=readers,
            ahead=ahead,
            cache=cache,
            output=output,
        )
        job.check()
        self._identity: dict = _as_json(  # what `load_state_dict` requires to be unchanged
            {
                "set": shards.manifest["digest"],
                "split": split,
                "samples": len(self._reader),
                "detector": detector,
                "backgrounds": others.digests if others else [],
                "views": asdict(views),
                "batch_size": batch_size * world_size,
                "seed": seed,
                "shuffle": shuffle,
                "last_batch": last_batch,
                "shuffle_block": shuffle_block,
                # Each rank pairs the images of its own part, so with other ranks every background is another.
                "ranks": world_size if views.pastes and others is None else None,
            }
        )
        self._epoch, self._batch, self._restored = 0, 0, False
        self._iteration = 0  # numbers the calls of `iter`, so that an older one notices a newer one
        self._pending: deque[tuple[tuple[int, int], Any]] = deque()  # ((epoch, batch), request), in order
        self._maker = _start(job, device, process)
        self._stop = weakref.finalize(self, self._maker.close)
        from .delivery import Delivery  # here: they load torch, and `_start` says if it is missing
        from .unfinished import Finisher

        # Compiling takes seconds, more than it saves in an evaluation of one ordered epoch.
        self._finisher = Finisher(views, compiled=shuffle and self._maker.device.type == "cuda")
        finishes = self._maker.eight_bit and output == "float32"
        self._delivery = Delivery(self._maker.device, self._finisher if finishes else None)

    def __len__(self) -> int:
        """Batches of one epoch, on this rank."""
        full, rest = divmod(len(self._reader), self._job.batch_size * self._job.world_size)
        if not rest or self._job.last_batch == "drop":
            return full
        start, stop = self._part(full)
        return full + (stop > start)

    @property
    def samples(self) -> int:
        """Samples that one epoch yields on this rank."""
        return sum(stop - start for start, stop in map(self._part, range(len(self))))

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a batch -> their shapes, with -1 for the number of samples."""
        from .unfinished import shapes

        tensors = shapes(self._job.views) if self._job.output == "uint8" else self._job.views.tensors
        return tensors | ({"box": (-1, 4)} if self._job.box else {})

    def __iter__(self) -> Iterator[dict[str, "torch.Tensor"]]:
        if self._batch and not self._restored:
            self._epoch, self._batch = self._epoch + 1, 0
        self._restored = False
        epoch, batches = self._epoch, len(self)
        if not self._stop.alive:
            raise RuntimeError("This loader is closed.")
        if not batches:
            self._epoch += 1
        self._iteration += 1
        own = self._iteration
        for number in range(self._batch, batches):
            if self._iteration != own:
                raise RuntimeError(
                    "Another iteration of this loader has begun and ended this one: a loader runs one epoch at a time. "
                    "Open a second loader with fgdata.load(...)."
                )
            following = self._after((epoch, number))
            self._prepare((epoch, number), epoch)
            batch = self._delivery.take(self._pending.popleft()[1].future)
            self._prepare(following, epoch)  # keeps the threads busy while the caller uses this batch
            if self._pending:
                self._delivery.start(self._pending[0][1].future)
            self._epoch, self._batch = following
            yield batch

    def finish(self, batch: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """Finishes a batch of a loader with `output="uint8"`, on the device where it is: blur, colour, clamp,
        solarisation, flip and normalisation. On a GPU, loaders with `output="float32"` do this themselves.

        Args:
            batch: The batch, or its tensors on another device.
        """
        return self._finisher(batch)

    def state_dict(self) -> dict[str, Any]:
        """The loader's position as plain JSON values. Counts the batches yielded, not those prepared. Of the boxes of
        `set_boxes` it has a digest only.

        It is the same on every rank, except at the end of an epoch with last_batch keep, where some ranks have one
        batch less.
        """
        state = {"epoch": self._epoch, "batch": self._batch, "loader": self._identity}
        boxes = self._maker.given.digest(self._epoch)
        return state | ({"boxes": boxes} if boxes else {})

    def load_state_dict(self, state: dict[str, Any], *, any_ranks: bool = False) -> None:
        """Restores a position: the next iteration yields exactly the batches that followed `state_dict`.

        The number of ranks may differ; the batches of all ranks together are then the same. Not so for crops that take
        their backgrounds from the batch: with another number of ranks, every background is another image. If boxes were
        set, set them again first.

        Args:
            state: A result of `state_dict`, also after a round trip through JSON.
            any_ranks: Accept other backgrounds, from a state of another number of ranks. Default: False.

        Raises:
            InputError: the state is of a loader with another set, other settings or other boxes, or of no loader.
        """
        if missing := [name for name in ("epoch", "batch", "loader") if name not in state]:
            raise InputError(
                f"The state lacks {', '.join(missing)}, so it is not that of a loader. Give what state_dict() returned."
            )
        saved = dict(state["loader"])
        if "world_size" in saved:  # a state of an older version
            saved["batch_size"] *= saved.pop("world_size")
        if any_ranks or "ranks" not in saved:  # older states do not tell
            saved["ranks"] = self._identity["ranks"]
        saved["views"] = _as_json(asdict(ViewSpec())) | saved["views"]  # settings that are newer than the state
        for name, current in self._identity.items():
            if saved.get(name) != current:
                raise InputError(
                    f"The loader's state is from a run with other settings: {name} was {saved.get(name)!r} and is "
                    f"{current!r} now. Resume with the settings of that run, or start a new run."
                )
        if state.get("boxes") != (boxes := self._maker.given.digest(state["epoch"])):
            raise InputError(
                f"The loader's state is from a run with other boxes: the sha256 of those set by set_boxes was "
                f"{state.get('boxes')} and is {boxes} now. Call set_boxes with the boxes of that run first."
            )
        self._epoch, self._batch, self._restored = state["epoch"], state["batch"], True

    def set_boxes(self, boxes: np.ndarray) -> None:
        """Replaces the boxes of all samples, from the next epoch on. Every rank must set the same ones.

        Between two epochs, the next epoch is the one that the next iteration starts; within an epoch, it is the
        following one. Batches of later epochs that are already in preparation are dropped.

        Args:
            boxes: (N, 4) (left, top, width, height) in [0, 1], in the order of the split.

        Raises:
            InputError: the shape is another, a value is out of range, or the views use no boxes.
        """
        views = self._job.views
        own = views.crop == "contrastive" and views.crop_box == "given"
        if not (views.needs_boxes or own or self._job.box):
            crop = f"{views.crop}, with crop_box {views.crop_box}" if views.crop == "contrastive" else views.crop
            raise InputError(f"These views use no boxes: their crop is {crop}. Omit set_boxes.")
        first = self._epoch + (self._batch > 0)
        self._maker.set_boxes(boxes, first)
        while self._pending and self._pending[-1][0][0] >= first:
            self._pending.pop()[1].future.cancel()

    def close(self) -> None:
        """Ends the threads. The loader cannot be iterated afterwards."""
        self._cancel()
        self._stop()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _part(self, number: int) -> tuple[int, int]:
        """This rank's part of a global batch, as positions in the order; beyond its end the order repeats."""
        job, n = self._job, len(self._reader)
        whole = job.batch_size * job.world_size
        size = whole if job.last_batch == "wrap" else min(whole, n - number * whole)
        start = number * whole
        return start + size * job.rank // job.world_size, start + size * (job.rank + 1) // job.world_size

    def _prepare(self, position: tuple[int, int], epoch: int) -> None:
        """Starts to read batches until there are `ahead`, the first of which is `position`, (epoch, batch).

        A shuffled loader continues into the next epoch, so that training does not wait at the end of one. An ordered
        loader stops, because it is assumed to run an evaluation of one epoch.
        """
        if self._pending and self._pending[0][0] != position:
            self._cancel()
        if self._pending:
            position = self._after(self._pending[-1][0])
        while len(self._pending) < self._job.batches_ahead and (position[0] == epoch or self._job.shuffle):
            self._pending.append((position, self._maker.submit(*position, *self._part(position[1]))))
            position = self._after(position)
        for _, request in islice(self._pending, WINDOW):
            request.admit()

    def _after(self, position: tuple[int, int]) -> tuple[int, int]:
        epoch, number = position
        return (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)

    def _cancel(self) -> None:
        for _, request in self._pending:
            request.future.cancel()
        self._pending.clear()


def _need_whole(**values: int | None) -> None:
    """InputError for an argument that is not a whole number or None."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer | None):
            raise InputError(f"{name} is {value!r}; allowed: a whole number.")


def _start(job: Job, device: "str | torch.device", process: bool) -> Any:
    """A `Maker`, in this process or in one of its own."""
    if not process:
        return Maker(job, device)
    place = find_device(device)
    if place.type != "cpu":
        if job.backend == "dali":
            raise InputError(
                "process is set, and DALI on a GPU makes views in the process that uses them. Omit it, or use the "
                "backend threads."
            )
        job = replace(job, backend="threads", output="uint8")
    from .process import MakerProcess  # here: few loaders have one

    return MakerProcess(job, place)


def _as_json(value: dict) -> dict:
    """The value after a round trip through JSON: tuples become lists."""
    return json.loads(json.dumps(value))


load = Loader
"""The name that users call: `fgdata.load(...)`."""
