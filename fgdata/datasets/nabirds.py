"""NABirds: CUB's five lists with uuids for ids, and a hierarchy of 1,011 classes of which 555 have images.

classes.txt names the groups too; only classes that an image has are classes here, in the order of their numbers.
"""

from pathlib import Path

from . import Dataset, parsing
from .cub import LISTS, read_lists

PUBLISHED = {"classes": 555, "train": 23929, "test": 24633}


def read(root: Path) -> Dataset:
    """The dataset in `root`, or in nabirds/ inside it. InputError at the first fault of the parsing."""
    folder = parsing.holder("nabirds", root, ["nabirds"], LISTS, "nabirds.tar.gz")
    return read_lists("nabirds", folder, PUBLISHED, whole_ids=False, only_used=True)
