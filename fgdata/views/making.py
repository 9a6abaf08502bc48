"""Makes the batches of a loader in threads of this process: reads their samples, then computes the views."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..shards.reader import ShardSet
from .backgrounds import Backgrounds
from .cache import Cache
from .given import Given
from .opening import open_mattes, start
from .order import Orders
from .pool import Buffers
from .reading import Readers, Request, default_ahead, default_readers
from .spec import ViewSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """What a loader makes and how, as in its arguments. Pickles."""

    shards: ShardSet
    split: str
    views: ViewSpec
    detector: str | None  # None if nothing needs boxes
    backgrounds: Backgrounds | None
    batch_size: int
    last_batch: str
    backend: str
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    shuffle_block: int | None
    box: bool
    threads: int | None
    readers: int | None
    ahead: int | None
    cache: str | None
    output: str

    @cached_property  # counting the cores reads the files of control groups: a millisecond
    def reader_threads(self) -> int:
        return self.readers or default_readers(self.world_size)

    @cached_property
    def batches_ahead(self) -> int:
        """Batches that are read in advance, the next one included."""
        return self.ahead or default_ahead(self.reader_threads, self.batch_size)

    def check(self) -> None:
        """InputError for an argument that is out of range, or a split that is too small."""

        def need(ok: bool, problem: str, allowed: str) -> None:
            if not ok:
                raise InputError(f"{problem}; allowed: {allowed}.")

        n, whole = len(self.shards.split(self.split)), self.batch_size * self.world_size
        need(0 <= self.seed < 1 << 64, f"seed is {self.seed}", "0 to 2^64 - 1")
        need(self.batch_size >= 1, f"batch_size is {self.batch_size}", "1 or more")
        need(0 <= self.rank < self.world_size, f"rank is {self.rank} of {self.world_size}", "0 to world_size - 1")
        for name, value in (("readers", self.readers), ("ahead", self.ahead)):
            need(value is None or 1 <= value <= 1024, f"{name} is {value}", "1 to 1024; omit it for the default")
        block = self.shuffle_block
        need(block is None or block >= 1, f"shuffle_block is {block}", "1 or more; omit it to shuffle the whole split")
        need(block is None or self.shuffle, "shuffle_block is set, and shuffle is False", "shuffle_block with shuffle")
        need(self.output in ("float32", "uint8"), f"output is {self.output!r}", "float32, uint8")
        need(self.cache in (None, "ram"), f"cache is {self.cache!r}", "ram, None")
        need(self.last_batch in ("drop", "wrap", "keep"), f"last_batch is {self.last_batch!r}", "drop, wrap, keep")
        where = f"split {self.split!r} of {self.shards.path} has {n:,} samples"
        need(
            self.last_batch != "drop" or n >= whole,
            f"{where}, but a batch takes {self.batch_size} x {self.world_size} ranks",
            "a batch size no larger than the split, or last_batch keep",
        )
        need(
            self.last_batch != "wrap" or n >= self.batch_size,
            f"{where}, but a batch takes {self.batch_size}",
            "a batch no larger than the split",
        )
        need(
            n >= 2 or not self.views.pastes or self.backgrounds is not None,
            where,
            f"two or more for {self.views.crop}, which uses other samples as backgrounds; or backgrounds from another "
            "set, or crop rrc",
        )


class Maker:
    """Makes batches by their position."""

    def __init__(self, job: Job, device: "str | torch.device", buffers: Buffers | None = None):
        """buffers: memory of the batches of the backend threads. InputError as of `Loader`."""
        self.job, self.given = job, Given()
        self._reader = job.shards.split(job.split)
        self._mattes = open_mattes(job.shards, job.split, job.detector) if job.views.needs_maps else None
        self._source = Cache(self._reader, job.world_size) if job.cache else self._reader  # of the samples
        tars = tuple(shard["samples"] for shard in self._reader.shards) if job.shuffle_block else ()
        self._orders = Orders(job.seed, len(self._reader), job.shuffle, tars, job.shuffle_block)
        self._submitted = 0
        self._prepared = 0  # the latest epoch whose order is or will be computed by the readers
        self.device, self._backend = start(
            job.views,
            job.batch_size,
            job.backend,
            job.threads,
            device,
            world_size=job.world_size,
            other_sets=job.backgrounds is not None,
            cache=job.cache is not None,
            output=job.output,
            buffers=buffers,
        )
        self._readers = Readers(job.reader_threads)

    @property
    def eight_bit(self) -> bool:
        """Whether the batches are 8-bit ones."""
        return self._backend.eight_bit

    def submit(self, epoch: int, number: int, start: int, stop: int) -> Request:
        """Starts to read this rank's part of global batch `number` of an epoch, positions start to stop of its order.
        The result of the request's future is a dict of tensors."""
        job, spec = self.job, self.job.views
        borrows = spec.pastes and job.backgrounds is None and stop - start == 1
        from .batch import gather

        keys = {"seed": job.seed, "epoch": epoch, "backgrounds": job.backgrounds, "mattes": self._mattes}
        work = partial(
            gather,
            self._source,
            spec,
            job.detector,
            keep=stop - start,
            batch=number * job.world_size + job.rank,
            given=self.given.at(epoch),
            yield_box=job.box,
            **keys,
        )
        self._submitted += 1
        request = Request(self._submitted, self._backend, work)
        positions = np.arange(start, stop + borrows) % len(self._reader)
        self._readers.start(request, partial(_choose, self._orders, positions, self._source, spec, keys))
        if job.shuffle and epoch + 1 != self._prepared:  # in spare time: it takes 5 s for 10 million samples
            self._prepared = epoch + 1
            self._readers.put(self._submitted + job.batches_ahead, self._orders.prepare, epoch + 1)
        return request

    def set_boxes(self, boxes: np.ndarray, first: int) -> None:
        """Replaces the boxes (N, 4) of all samples from epoch `first` on."""
        self.given.set(boxes, len(self._reader), first)

    def close(self) -> None:
        """Ends the threads."""
        self._readers.close()
        self._backend.close()


def _choose(orders: Orders, positions: np.ndarray, source: Any, spec: ViewSpec, keys: dict[str, Any]) -> tuple:
    """The samples at some positions of an epoch's order, and the reads of their batch."""
    from .batch import reads

    index = orders.of(keys["epoch"])[positions]
    return index, reads(source, spec, index, **keys)
