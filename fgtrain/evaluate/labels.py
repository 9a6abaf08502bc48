"""Files that list the labelled images of a split, as papers on few labels publish them: one image per line.

A line is the image's id or path, and perhaps its label after a space or comma: the class's number from 0, or its name.
A path may have more or fewer folders in front than the set's: "data/CUB200/images/001.Auk/a.jpg" is "001.Auk/a.jpg".
"""

import hashlib
import re
from pathlib import Path

import torch

from fgdata.errors import InputError, counted
from fgdata.files.json import MOST_BYTES
from fgdata.shards.reader import ShardSet, label, meta

from ..runs.files import read_bytes
from .finetune import Part
from .probe import labelled, labels_of

SHOWN = 5  # lines that a message names
LONGEST = 4096  # characters of a line


class Chosen(Part):
    """Images of a split that --data.labels chooses."""

    setting: str
    """Of run.json: what chose them."""
    note: str
    """A line to print before the first step."""


class Labelled(Chosen):
    """The shard set `whole` of whose split `cut` only the images that a file lists are left, renumbered from 0."""

    def __init__(self, whole: ShardSet, cut: str, file: Path, flag: str = "--labels"):
        """flag: the one that names the file, for messages. InputError if the file cannot be read, lists no image or an
        unknown one, or states another label."""
        data = _read(file, flag)
        rows = _find(whole, cut, file, data)
        super().__init__(whole, cut, torch.tensor(rows))
        self.file, self.sha256 = file, hashlib.sha256(data).hexdigest()
        self.note = f"labels: {len(rows):,} of {counted(whole.splits[cut], 'image')} of {cut}, listed in {file}"

    @property
    def setting(self) -> str:
        return recorded(self.file, self.sha256)


class Share(Chosen):
    """The shard set `whole` of whose split `cut` only a fraction of every class is left, renumbered from 0: the images
    that an evaluation with `--fractions` and the same seed learns from."""

    def __init__(self, whole: ShardSet, cut: str, fraction: float, seed: int):
        """InputError if a class would keep no image."""
        rows = labelled(labels_of(whole, cut), fraction, seed, "data.labels").nonzero()[:, 0]
        super().__init__(whole, cut, rows)
        self.setting = f"{fraction:g} of every class, seed {seed}"
        self.note = f"labels: {len(rows):,} of {counted(whole.splits[cut], 'image')} of {cut}, {self.setting}"


def recorded(file: Path, sha256: str | None = None) -> str:
    """A list of labelled images as results record it: the file and the start of its sha256, which is read by default.

    InputError if the file cannot be read.
    """
    sha256 = sha256 or hashlib.sha256(_read(file, "--labels")).hexdigest()
    return f"{file} ({sha256[:12]})"


def _read(file: Path, flag: str) -> bytes:
    if not file.is_file():
        raise InputError(f"{flag}: there is no file at {file}. Name a list of images, one id or path per line.")
    return read_bytes(file, MOST_BYTES)


def _find(shards: ShardSet, split: str, file: Path, data: bytes) -> list[int]:
    """The numbers of the listed images in their split, in its order."""
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as fault:
        raise InputError(f"{file} is not a list of images: {fault}. Save it as UTF-8 text.") from None
    if not lines:
        raise InputError(f"{file} lists no image. Write one id or path per line.")
    names = Names(shards, split)
    chosen: set[int] = set()
    unknown, different = [], []
    for line in lines:
        number, stated = _match(line, names)
        if number is None:
            unknown.append(line[:120])
            continue
        chosen.add(number)
        own = names.labels[number]
        if stated not in ("", str(own), shards.classes[own]):
            different.append(f"{line[:120]} (in the set class {own}, {shards.classes[own]})")
    for odd, what in (
        (unknown, f"no such image in the {split} split of {shards.path}; a line is an image's id or path"),
        (different, f"another label than in {shards.path}, where they count from 0; omit them to use the set's"),
    ):
        if odd:
            more = f"; and {len(odd) - SHOWN:,} more" if len(odd) > SHOWN else ""
            count = f"{len(odd):,} of {counted(len(lines), 'line')}"
            raise InputError(f"{file}, {count}: {what}: {'; '.join(odd[:SHOWN])}{more}")
    return sorted(chosen)


class Names:
    """The images of a split by id, by file, and by the end of the file's path where it is unique."""

    def __init__(self, shards: ShardSet, split: str):
        reader = shards.split(split)
        self.ids: dict[str, int] = {}
        self.files: dict[str, int] = {}
        self.ends: dict[str, int | None] = {}
        """None for an end that several files have."""
        self.labels: list[int] = []
        for number in range(len(reader)):
            sample = reader.read(number, without="jpg")
            self.labels.append(label(sample))
            file = meta(sample)["file"]
            self.ids[meta(sample)["id"]] = self.files[file] = number
            words = file.split("/")
            for start in range(1, len(words)):
                end = "/".join(words[start:])
                self.ends[end] = None if end in self.ends else number

    def find(self, name: str) -> int | None:
        """The number of an image by an id or a path as described above; None if there is none."""
        if (number := self.ids.get(name, self.files.get(name))) is not None:
            return number
        words = name.removeprefix("./").split("/")
        longer = (self.files.get("/".join(words[start:])) for start in range(len(words)))
        return next((number for number in longer if number is not None), self.ends.get("/".join(words)))


def _match(line: str, names: Names) -> tuple[int | None, str]:
    """A line -> the number of its image, None if it is unknown, and the label after it, "" without one.

    Paths and class names may contain spaces: the longest beginning of the line that is an image is taken.
    """
    if len(line) <= LONGEST:
        ends = [(len(line), len(line)), *(gap.span() for gap in reversed(list(re.finditer(r"[\s,]+", line))))]
        for end, rest in ends:
            if (number := names.find(line[:end])) is not None:
                return number, line[rest:]
    return None, ""
