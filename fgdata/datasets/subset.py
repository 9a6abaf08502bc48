"""Parts of a dataset: its first classes, or fewer images of each class."""

from collections import defaultdict
from dataclasses import replace

from ..errors import InputError
from . import Dataset


def take(dataset: Dataset, classes: int | None = None, images_per_class: int | None = None) -> Dataset:
    """The first `classes` classes, and of each of them `images_per_class` images of the train split, evenly spaced.

    Both follow the dataset's own order; the test split keeps all images of these classes. InputError if the dataset has
    fewer classes, or a number is below 1.
    """
    if classes is not None and not 1 <= classes <= len(dataset.classes):
        raise InputError(
            f"--classes is {classes:,}, but {dataset.name} has {len(dataset.classes):,} classes; allowed: 1 to "
            f"{len(dataset.classes):,}."
        )
    if images_per_class is not None and images_per_class < 1:
        raise InputError(f"--images-per-class is {images_per_class:,}; allowed: 1 or more.")
    count = len(dataset.classes) if classes is None else classes
    records = [record for record in dataset.records if record.label < count]
    if images_per_class is not None:
        records = _thin(records, images_per_class)
    given = {"classes": classes, "images_per_class": images_per_class}
    settings = {f"subset_{name}": value for name, value in given.items() if value is not None}
    note = f"a part: {len(records):,} of {len(dataset.records):,} images, {count:,} of {len(dataset.classes):,} classes"
    return replace(
        dataset,
        classes=dataset.classes[:count],
        records=tuple(records),
        settings={**dataset.settings, **settings},
        note="\n".join(filter(None, [dataset.note, note])),
    )


def _thin(records: list, most: int) -> list:
    """Of every class in train at most so many records, evenly spaced; all others as they are."""
    places = defaultdict(list)
    for number, record in enumerate(records):
        if record.split == "train":
            places[record.label].append(number)
    left_out = set()
    for numbers in places.values():
        if len(numbers) > most:
            left_out |= set(numbers) - {numbers[i * len(numbers) // most] for i in range(most)}
    return [record for number, record in enumerate(records) if number not in left_out]
