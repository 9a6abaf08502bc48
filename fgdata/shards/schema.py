"""The types that FORMAT.md states, as data: what a manifest and a sample's json must be before anything uses them.

A shape is `Is` (a test of one value), a dict of shapes (an object; keys that end in "?" may be absent, unknown keys are
ignored), `Each` (an object whose keys match a pattern) or a list of one shape (a list of any length).
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Is:
    """A value that passes a test."""

    words: str
    """Completes "... must be"."""
    test: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object in which every key matches `key` and every value has `shape`."""

    key: str
    shape: Any


Shape = Is | Each | dict | list


def find_fault(value: Any, shape: Shape, where: str = "") -> str | None:
    """Compares a JSON value with a shape.

    Returns:
        The first difference, for example `splits.train.samples is -1; it must be a whole number from 0`; None without.
    """
    if isinstance(shape, Is):
        return None if shape.test(value) else f"{_name(where)} is {_shorten(value)}; it must be {shape.words}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{_name(where)} is {_shorten(value)}; it must be a list"
        faults = (find_fault(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))
        return next((fault for fault in faults if fault), None)
    if not isinstance(value, dict):
        return f"{_name(where)} is {_shorten(value)}; it must be an object"
    prefix = f"{where}." if where else ""
    if isinstance(shape, Each):
        if bad := next((key for key in value if not re.fullmatch(shape.key, key)), None):
            return f"{_name(where)} has the key {_shorten(bad)}; keys must match {shape.key}"
        faults = (find_fault(item, shape.shape, prefix + key) for key, item in value.items())
        return next((fault for fault in faults if fault), None)
    for key, inner in shape.items():
        name = key.removesuffix("?")
        if name not in value:
            if name == key:
                return f"{prefix}{key} is missing"
        elif fault := find_fault(value[name], inner, prefix + name):
            return fault
    return None


def _name(where: str) -> str:
    return where or "it"


def _shorten(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def whole(low: int, high: int) -> Is:
    """A whole number in a range."""
    return Is(f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


TEXT = Is("text", lambda value: isinstance(value, str))
OBJECT = Is("an object", lambda value: isinstance(value, dict))
NUMBER = Is("a number", _is_number)
OPTIONAL = Is("a number or null", lambda value: value is None or _is_number(value))
FALLBACK = Is('text ("" for none)', lambda value: value is None or isinstance(value, str))
SHA256 = Is("64 hexadecimal digits", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
COUNT = whole(0, 1 << 50)
BOX = Is(
    "four numbers, left, top, width and height, that lie in the image",
    lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)) and is_box(*value),
)


def is_box(left: float, top: float, width: float, height: float) -> bool:
    """Whether (l, t, w, h) is a box in [0, 1], up to rounding."""
    most = 1 + 1e-4
    return left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= most and top + height <= most


NAME = "[a-z0-9-]{1,80}"
"""Of a split and a detector. Both become names of files, and a detector's name goes into pages and tables."""

SHARD = {
    "name": TEXT,
    "samples": COUNT,
    "bytes": COUNT,
    "sha256": SHA256,
    "index_bytes": whole(0, 256 << 20),
    "index_sha256": SHA256,
}

MANIFEST = {
    "dataset": {"name": TEXT, "classes?": [TEXT], "settings?": OBJECT, "records_sha256?": TEXT},
    "detectors": Each(NAME, {"tau?": NUMBER}),
    "objective": {"name": TEXT, "tau?": NUMBER, "k?": NUMBER, "min_area?": OPTIONAL, "grid?": NUMBER},
    "images": {"version?": NUMBER, "max_side": OPTIONAL, "quality": NUMBER},
    "versions": Each(".*", TEXT),
    "splits": Each(NAME, {"samples": COUNT, "shards": [SHARD]}),
    "skipped": [OBJECT],
    "boxes_clipped": COUNT,
    "reencoded": COUNT,
    "fallbacks": Each(NAME, Each(".*", COUNT)),
    "maps?": {
        "name": Is('"maps.h5"', lambda value: value == "maps.h5"),
        "side": whole(128, 128),
        "bytes": COUNT,
        "sha256": SHA256,
    },
    "reboxed?": OBJECT,
    "added?": OBJECT,
    "plugins?": Each(".*", TEXT),
}

SAMPLE = {
    "id": TEXT,
    "file": TEXT,
    "width": whole(1, 1 << 20),
    "height": whole(1, 1 << 20),
    "class": TEXT,
    "split": TEXT,
    "boxes": [BOX],
    "detectors": Each(NAME, {"fallback": FALLBACK}),
}
