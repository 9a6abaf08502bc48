"""NABirds: CUB's five lists with UUIDs as ids, and a hierarchy of 1,011 classes of which 555 have images.

classes.txt also lists the groups of the hierarchy. Only classes with images are kept, in the order of their numbers.
"""

from pathlib import Path

from . import Dataset, parsing
from .cub import LISTS, read_lists

PUBLISHED = {"classes": 555, "train": 23929, "test": 24633}


def read(root: Path) -> Dataset:
    """Reads the dataset from `root`, or from nabirds/ inside it. InputError at the first fault of a list."""
    folder = parsing.find_root("nabirds", root, ["nabirds"], LISTS, "nabirds.tar.gz")
    return read_lists("nabirds", folder, PUBLISHED, whole_ids=False, only_used=True)
