"""What the tests of dataset readers share: files in a published layout, and what was read back."""

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


def boxes(known: datasets.Dataset) -> dict:
    """{file: boxes}, through a pickle as worker processes see it."""
    again = pickle.loads(pickle.dumps(known))
    return {record.file: again.load(record)[1] for record in known.records}


def labels(known: datasets.Dataset) -> dict:
    assert all(known.classes[record.label] == record.class_name for record in known.records)
    return {record.file: (record.label, record.split) for record in known.records}
