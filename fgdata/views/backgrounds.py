"""Whole images of other shard sets, for SaliencySwap's `paste` (CVSA, Table 6): read by number, without boxes."""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from ..errors import InputError
from ..shards.reader import ShardSet, meta


class Backgrounds:
    """All samples of all splits of some shard sets, numbered through in the order given. Thread-safe."""

    def __init__(self, sets: Sequence[ShardSet]):
        self.digests = [shards.manifest["digest"] for shards in sets]
        self._readers = [shards.split(name) for shards in sets for name in shards.splits]
        self._ends = list(accumulate(map(len, self._readers)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int) -> tuple[str, bytes]:
        """Background `number` -> its name for messages, its JPEG. InputError when its bytes are not those written."""
        which = bisect.bisect_right(self._ends, number)
        reader, inner = self._readers[which], number - (self._ends[which] - len(self._readers[which]))
        sample = reader.read(inner)
        return f"background {meta(sample)['id']} of {reader.folder} (split {reader.split}, sample {inner})", sample[
            "jpg"
        ]


def open_backgrounds(asked: "str | Path | ShardSet | Sequence[str | Path | ShardSet]", own: ShardSet) -> Backgrounds:
    """One or several sets, by path or open. InputError when one is no shard set, has no samples, or has the
    images of `own`."""
    sets = []
    for one in [asked] if isinstance(asked, str | Path | ShardSet) else asked:
        try:
            shards = ShardSet.open(one) if isinstance(one, str | Path) else one
        except InputError as fault:
            raise InputError(f"As a set of backgrounds (--data.backgrounds): {fault}") from None
        if not sum(shards.splits.values()):
            raise InputError(
                f"{shards.path} cannot lend backgrounds: it has no samples. Name another set: --data.backgrounds FOLDER"
            )
        if _images(shards) == _images(own):
            raise InputError(
                f"{shards.path} cannot lend backgrounds: it holds the images of {own.path}, and one would be pasted "
                "onto itself. For backgrounds from the same dataset leave --data.backgrounds away; for others name a "
                "set of another dataset."
            )
        sets.append(shards)
    return Backgrounds(sets)


def _images(shards: ShardSet) -> tuple:
    """Which images a set was built from, whatever was made of them; the set itself where its manifest does not say."""
    dataset = shards.manifest.get("dataset", {})
    if "records_sha256" not in dataset:
        return (shards.manifest["digest"],)
    return dataset["records_sha256"], dataset.get("settings")  # a seed of drawn is not in its records
