"""Oxford-IIIT Pets: images/, annotations/trainval.txt and test.txt, annotations/xmls/ with the box of each pet's HEAD.

A line is `IMAGE CLASS-ID SPECIES BREED-ID`; the class is named like the image up to its number. Most images of trainval
have a head, those of test have none. Labels are 0-based: the rank of the class id. A few images are called .jpg but
are PNG or GIF; the content decides.
"""

from pathlib import Path

from ..errors import InputError, abbreviate
from . import Dataset, Record, parsing
from .voc import Annotated

NAME = "pets"
PUBLISHED = {"classes": 37, "train": 3680, "test": 3669}
LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
XML = "annotations/xmls/{id}.xml"


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`, or from oxford-iiit-pet/ inside it. InputError at the first fault of a list."""
    needed = (*LISTS.values(), "images")
    folder = parsing.find_root(NAME, root, ["oxford-iiit-pet"], needed, "images.tar.gz and annotations.tar.gz")
    lines = {
        split: parsing.read_table(NAME, folder / path, "IMAGE CLASS-ID SPECIES BREED-ID", _class_id, whole_keys=False)
        for split, path in LISTS.items()
    }
    if twice := [id_ for id_ in lines["train"] if id_ in lines["test"]]:
        raise InputError(
            f"{NAME}: {abbreviate(twice)} listed in both {' and '.join(LISTS.values())} (in {folder}). "
            "Remove the duplicates from one of them."
        )
    names: dict[int, str] = {}
    for id_, number in (item for half in lines.values() for item in half.items()):
        name = id_.rpartition("_")[0]
        if names.setdefault(number, name) != name:
            raise InputError(
                f"{NAME}: {folder / 'annotations'} lists both {names[number]} and {name} as class {number}. "
                "Restore trainval.txt and test.txt."
            )
    rank = {number: label for label, number in enumerate(sorted(names))}
    xmls = folder / "annotations" / "xmls"
    heads = {path.stem for path in xmls.glob("*.xml")} if xmls.is_dir() else set()
    records = tuple(
        Record(id_, f"images/{id_}.jpg", rank[number], names[number], split, None if id_ in heads else ())
        for split, half in lines.items()
        for id_, number in half.items()
    )
    parsing.check_files_exist(NAME, "its lists", folder, [record.file for record in records])
    classes = tuple(names[number] for number in rank)
    counts = parsing.check_counts(NAME, classes, records, PUBLISHED)
    boxed = sum(record.boxes is None for record in records)
    note = f"boxes are those of the head, for {boxed:,} of {len(records):,} images"
    return Dataset(
        NAME, classes, records, Annotated(NAME, folder, xml=XML), note="\n".join(filter(None, (counts, note)))
    )


def _class_id(text: str) -> int:
    number = text.split()[0]
    if not (number.isdecimal() and 1 <= int(number) <= PUBLISHED["classes"]):
        raise ValueError(f"the class id is {number[:40]!r}; allowed: 1 to {PUBLISHED['classes']}")
    return int(number)
