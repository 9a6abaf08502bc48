"""A shard set in memory, with images of many sizes, and a loader of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from fgdata.boxes.objective import Objective
from fgdata.errors import InputError
from fgdata.images import encode_jpeg
from fgdata.shards.sample import Sample
from fgdata.shards.writer import box_bytes
from fgdata.views import Loader, ViewSpec, load


def as_sample(components: dict[str, bytes]) -> Sample:
    sample = Sample(components)
    sample.info = json.loads(components["json"])
    return sample


class MemorySet:
    """The part of a ShardSet that the loader uses, in memory: one split of images of many sizes."""

    path, folder, detectors = Path("memory"), "memory", ("gt", "rbd")

    def __init__(self, count: int, side: tuple[int, int] = (20, 60), broken: int | None = None):
        rng = np.random.default_rng(count)
        self.manifest = {"digest": f"{count} {side}", "dataset": {"name": "drawn"}, "images": {}}
        self.manifest |= {"objective": Objective().settings, "detectors": {"gt": {}, "rbd": {}}}
        self.splits, self.split_name = {"train": count}, ""
        self.samples = []
        for i in range(count):
            w, h = (int(value) for value in rng.integers(*side, 2))
            coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            x, y = np.sort(rng.uniform(0, 1, (2, 2)), 1)
            box = [x[0], y[0], max(x[1] - x[0], 0.1), max(y[1] - y[0], 0.1)]
            self.samples.append(
                {
                    "jpg": encode_jpeg(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)),
                    "cls": b"%d" % (i % 7),
                    "json": json.dumps({"id": f"bird-{i}", "width": w, "height": h}).encode(),
                    "gt.npy": box_bytes(np.array([0.2, 0.2, 0.5, 0.5])),
                    "rbd.npy": box_bytes(np.array(box)),
                }
            )
        if broken is not None:
            self.samples[broken]["jpg"] = self.samples[broken]["jpg"][:-200]

    def split(self, name: str) -> "MemorySet":
        if name not in self.splits:
            raise InputError(f"no split {name!r}")
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, number: int, without: str | None = None) -> Sample:
        return as_sample(self.samples[number])


def open_loader(shards: MemorySet | int, views: ViewSpec, batch_size: int = 4, **options) -> Loader:
    shards = MemorySet(shards) if isinstance(shards, int) else shards
    options = {"backend": "threads", "threads": 2, "seed": 3} | options
    return load(shards, views=views, batch_size=batch_size, **options)  # type: ignore[arg-type]


def record(loader: Loader, epochs: int = 2) -> tuple[list[dict], list[dict[str, torch.Tensor]]]:
    """Runs a loader -> its state before each batch and after the last, as a JSON file keeps it, and the batches."""
    states, batches = [loader.state_dict()], []
    for _ in range(epochs):
        for batch in loader:
            batches.append(batch)
            states.append(json.loads(json.dumps(loader.state_dict())))
    return states, batches


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
