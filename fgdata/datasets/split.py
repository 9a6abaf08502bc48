"""A test split drawn from a dataset that has none, the same share of every class."""

from dataclasses import replace

import numpy as np

from ..errors import InputError, counted
from . import Dataset


def split_off(dataset: Dataset, fraction: float | None, seed: int = 0) -> Dataset:
    """Moves round(fraction x images) of each class to the test split, at least one of a class of two or more.

    A class keeps at least one train image. Which images move depends on the seed, the number of the class and the ids,
    not on the order of the records.

    Args:
        dataset: All its records are train.
        fraction: Above 0 and below 1; None changes nothing.
        seed: 0 or more.

    Raises:
        InputError: The dataset has a test split, a value is out of range, or no class has two images.
    """
    if fraction is None:
        if seed:
            raise InputError("--split-seed has no effect without --test-fraction. Omit it, or set --test-fraction 0.2")
        return dataset
    if not 0 < fraction < 1:
        raise InputError(f"--test-fraction {fraction:g}: must be above 0 and below 1, such as 0.2")
    if seed < 0:
        raise InputError(f"--split-seed {seed}: must be 0 or more.")
    if any(record.split != "train" for record in dataset.records):
        raise InputError(f"--test-fraction: {dataset.name} already has a test split. Omit the flag to use it.")
    members: dict[int, list[str]] = {}
    for record in dataset.records:
        members.setdefault(record.label, []).append(record.id)
    test: set[str] = set()
    for label, ids in members.items():
        count = min(max(1, int(fraction * len(ids) + 0.5)), len(ids) - 1)
        order = np.random.default_rng([seed, label]).permutation(len(ids))
        ordered = sorted(ids)
        test.update(ordered[i] for i in order[:count])
    if not test:
        raise InputError(
            f"--test-fraction: no class of {dataset.name} has two images, so no test split can be drawn. Omit the flag."
        )
    notes = [f"{len(test):,} of {counted(len(dataset.records), 'image')} form the test split, drawn with seed {seed}"]
    if single := sum(len(ids) == 1 for ids in members.values()):
        notes.append(f"classes of a single image, which have no test image: {single:,}")
    return replace(
        dataset,
        records=tuple(replace(r, split="test") if r.id in test else r for r in dataset.records),
        settings={**dataset.settings, "test_fraction": fraction, "split_seed": seed},
        note="\n".join(line for line in (dataset.note, *notes) if line),
    )
