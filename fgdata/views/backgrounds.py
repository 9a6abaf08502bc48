"""Whole images of shard sets as backgrounds of SaliencySwap's `paste` (CVSA, Table 6); no boxes needed.

The set that is trained on may be one of them. Then only its images of that split count, and an image is never its own
background.
"""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..shards.manifest import identify_images
from ..shards.reader import ShardSet, SplitReader, fetch_sample, meta, open_fetched
from .opening import open_set
from .spec import ViewSpec


class Lender(NamedTuple):
    """An image of another set."""

    name: str  # for messages
    jpeg: bytes
    size: tuple[int, int]  # width and height in pixels


class Backgrounds:
    """All samples of some splits, numbered consecutively in the order given. Thread-safe."""

    def __init__(self, readers: Sequence[SplitReader], digests: Sequence[str], own: int | None = None):
        """readers: the splits. digests: of their sets. own: which of the readers is the split that is trained on."""
        self.digests, self._readers = list(digests), list(readers)
        self._ends = list(accumulate(map(len, self._readers)))
        self._own = None if own is None else self._ends[own] - len(self._readers[own])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def own(self, index: np.ndarray) -> np.ndarray | None:
        """(n,) numbers of samples of the split that is trained on -> their numbers here; None if it is not here."""
        return None if self._own is None else self._own + index

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


def open_backgrounds(
    sets: "Sequence[str | Path | ShardSet]",
    own: ShardSet,
    split: str,
    views: ViewSpec,
    cache_dir: "str | Path | None" = None,
    cache_gb: float = 50.0,
) -> Backgrounds | None:
    """Opens one or several shard sets of backgrounds; None for none.

    Args:
        sets: Folders of shard sets, or open ones.
        own: The shard set whose patches are pasted over them.
        split: Its split.
        views: The views of each of its images.
        cache_dir, cache_gb: For those given by URL, as of `ShardSet.open`.

    Raises:
        InputError: the views have no background, or need one and there is none; a set is not a shard set, or has no
            samples; it has the same images as `own` but is another set, or `lent` views would come from `own`.
    """
    _check_views(views, bool(sets))
    readers, digests, place = [], [], None
    for one in sets:
        try:
            shards = open_set(one, cache_dir, cache_gb)
        except InputError as fault:
            raise InputError(f"A set of backgrounds cannot be opened: {fault}") from None
        if not sum(shards.splits.values()):
            raise InputError(f"{shards.path} cannot be used for backgrounds: it has no samples. Name another set.")
        digests.append(shards.manifest["digest"])
        if identify_images(shards.manifest) != identify_images(own.manifest):
            readers += [shards.split(name) for name in shards.splits]
            continue
        _check_own(shards, own, split, views, place is not None)
        place = len(readers)
        readers.append(own.split(split))
    backgrounds = Backgrounds(readers, digests, place)
    if place is not None and len(backgrounds) < 2:
        raise InputError(
            f"{own.path} cannot be used for its own backgrounds: its split {split} has one image, which would be its "
            "own background. Name another set as well."
        )
    return backgrounds if sets else None


def _check_views(views: ViewSpec, given: bool) -> None:
    """InputError if there are backgrounds that the views do not show, or none that they need."""
    if given and not (views.pastes or views.lent):
        raise InputError(
            "Only the crops saliency-swap, paste and matte-paste use backgrounds, and the crop of these views is "
            f"{views.crop}{' over grey' if views.grey else ''}. Omit the backgrounds, or set crop to one of them."
        )
    if views.lent and not given:
        raise InputError("lent=True needs backgrounds: name one or more other shard sets.")


def _check_own(shards: ShardSet, own: ShardSet, split: str, views: ViewSpec, twice: bool) -> None:
    """InputError if `shards`, which has the images of `own`, cannot lend them."""
    if shards.manifest["digest"] != own.manifest["digest"]:
        raise InputError(
            f"{shards.path} cannot be used for backgrounds: it has the same images as {own.path}, so an object could "
            f"be pasted onto itself. For backgrounds of the same dataset, name {own.path}, or omit the backgrounds."
        )
    if views.lent:
        raise InputError(
            f"{own.path} cannot be used for its own backgrounds here: these views include an image of another dataset "
            "for each sample, which the method distinguishes from those of the set. Name other sets."
        )
    if twice:
        raise InputError(f"{own.path} appears twice among the backgrounds. Name it once.")
