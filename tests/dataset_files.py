"""Helpers of the dataset readers' tests: write files in a published layout, and summarise what was read."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from fgdata import datasets


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def image(height: int = 40, width: int = 60, kind: str = ".jpg") -> bytes:
    return cv2.imencode(kind, np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8))[1].tobytes()


def boxes(dataset: datasets.Dataset) -> dict:
    """{file: boxes}, loaded through a pickled copy as in worker processes."""
    copy = pickle.loads(pickle.dumps(dataset))
    return {record.file: copy.load(record)[1] for record in dataset.records}


def labels(dataset: datasets.Dataset) -> dict:
    assert all(dataset.classes[record.label] == record.class_name for record in dataset.records)
    return {record.file: (record.label, record.split) for record in dataset.records}
