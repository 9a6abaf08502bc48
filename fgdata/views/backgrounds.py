"""Whole images of other shard sets as backgrounds of SaliencySwap's `paste` (CVSA, Table 6); no boxes needed."""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..shards.manifest import identify_images
from ..shards.reader import ShardSet, SplitReader, fetch_sample, meta, open_fetched


class Lender(NamedTuple):
    """An image of another set."""

    name: str  # for messages
    jpeg: bytes
    size: tuple[int, int]  # width and height in pixels


class Backgrounds:
    """All samples of all splits of some shard sets, numbered consecutively in the order given. Thread-safe."""

    def __init__(self, sets: Sequence[ShardSet]):
        self.digests = [shards.manifest["digest"] for shards in sets]
        self._readers = [shards.split(name) for shards in sets for name in shards.splits]
        self._ends = list(accumulate(map(len, self._readers)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def fetch(self, number: int) -> Any:
        """The stored bytes of background `number`. InputError if its place is damaged."""
        reader, inner = self._find(number)
        return fetch_sample(reader, inner)

    def open(self, number: int, stored: Any) -> Lender:
        """What `fetch` returned -> the background. InputError if the sample is damaged."""
        reader, inner = self._find(number)
        sample = open_fetched(reader, inner, stored)
        about = meta(sample)
        name = f"background {about['id']} of {reader.folder} (split {reader.split}, sample {inner})"
        return Lender(name, sample["jpg"], (about["width"], about["height"]))

    def _find(self, number: int) -> tuple[SplitReader, int]:
        which = bisect.bisect_right(self._ends, number)
        return self._readers[which], number - (self._ends[which] - len(self._readers[which]))


def open_backgrounds(sets: "str | Path | ShardSet | Sequence[str | Path | ShardSet]", own: ShardSet) -> Backgrounds:
    """Opens one or several shard sets of backgrounds.

    Args:
        sets: Folders of shard sets, or open ones.
        own: The shard set whose patches are pasted over them.

    Raises:
        InputError: one is not a shard set, has no samples, or has the same images as `own`.
    """
    opened = []
    for one in [sets] if isinstance(sets, str | Path | ShardSet) else sets:
        try:
            shards = ShardSet.open(one) if isinstance(one, str | Path) else one
        except InputError as fault:
            raise InputError(f"A set of backgrounds cannot be opened: {fault}") from None
        if not sum(shards.splits.values()):
            raise InputError(f"{shards.path} cannot be used for backgrounds: it has no samples. Name another set.")
        if identify_images(shards.manifest) == identify_images(own.manifest):
            raise InputError(
                f"{shards.path} cannot be used for backgrounds: it has the same images as {own.path}, so an object "
                "could be pasted onto itself. To use images of the same dataset, omit the "
                "backgrounds; otherwise name a set of another dataset."
            )
        opened.append(shards)
    return Backgrounds(opened)
