"""The shard sets that the built-in studies use: where they are looked for, and how many images the papers used.

The counts are those of the published splits; a dry run estimates with them where a set is not built yet.
"""

from dataclasses import dataclass
from pathlib import Path

from fgdata.shards.manifest import MANIFEST


@dataclass(frozen=True)
class DataSet:
    """A shard set of a study."""

    title: str = ""
    """Its name in tables."""
    path: str = ""
    """Its folder."""
    train: int = 0
    """Training images, if the set is not built yet; 0: unknown."""
    test: int = 0
    """Test images."""
    build: str = ""
    """The command that builds it."""

    @property
    def folder(self) -> Path:
        return Path(self.path)

    @property
    def is_built(self) -> bool:
        return (self.folder / MANIFEST).is_file()


def _row(
    title: str, name: str, train: int, test: int, saliency: str = "gt rbd", dataset: str = "", part: str = ""
) -> DataSet:
    """A set that build-shards makes of a dataset, or with the flags `part` of a part of it."""
    words = filter(None, ["fgdata build-shards --dataset", dataset or name, part, "--saliency", saliency, "--out"])
    return DataSet(title, f"shards/{name}", train, test, f"{' '.join(words)} shards/{name}")


ALL_DETECTORS = "gt rbd gs vsf spectral-residual u2netp --keep-maps"

SETS: dict[str, DataSet] = {
    "cub": _row("CUB", "cub", 5994, 5794, ALL_DETECTORS),
    "nabirds": _row("NAbirds", "nabirds", 23929, 24633, "gt rbd --keep-maps"),
    "aircraft": _row("Aircraft", "aircraft", 6667, 3333, "gt rbd --keep-maps"),
    "cars": _row("Cars", "cars", 8144, 8041, "gt rbd --keep-maps"),
    "inat2018": _row("iNat2018", "inat2018", 437513, 24426, "rbd --keep-maps"),
    "gtsrb": _row("GTSRB", "gtsrb-112", 4816, 12630, dataset="gtsrb", part="--images-per-class 112"),
    "isic2017": _row("ISIC2017", "isic2017", 2000, 600, "rbd"),
    "cifar100": _row("CIFAR-100", "cifar100", 50000, 10000, "rbd"),
    "imagenet100": _row("ImageNet-100", "imagenet100", 126689, 5000, "rbd"),
    "coco": _row("COCO", "coco", 118287, 5000, "gt rbd"),
    "imagenet": _row("IN-1k", "imagenet", 1281167, 50000, "rbd"),
    "imagenet-10": _row(
        "10% IN-1k", "imagenet-10", 128000, 50000, "rbd", dataset="imagenet", part="--images-per-class 128"
    ),
    "drawn": _row("drawn birds", "drawn", 800, 400, f"whole {ALL_DETECTORS}"),
    "drawn-3000": _row(
        "3,000 drawn birds",
        "drawn-3000",
        3000,
        1500,
        f"whole {ALL_DETECTORS}",
        dataset="drawn",
        part="--images-per-class 225",
    ),
    "no-birds": DataSet(
        "images without birds",
        "shards/no-birds",
        build="fgdata build-shards --dataset flat --root FOLDER --saliency whole --out shards/no-birds",
    ),
    "real": _row(
        "real birds",
        "cub50",
        1500,
        1389,
        "gt rbd u2netp whole --keep-maps",
        dataset="cub",
        part="--classes 50 --max-side 256",
    ),
    "signs": _row(
        "traffic signs",
        "gtsrb-30",
        1290,
        12630,
        "gt rbd whole --keep-maps",
        dataset="gtsrb",
        part="--images-per-class 30",
    ),
}
"""Name in a study -> shard set. A study can add its own: [sets.NAME]."""
