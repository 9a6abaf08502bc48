"""Datasets as records: DATASETS lists them, `read` returns one as a Dataset. One file per layout.

Ground-truth boxes are (l, t, w, h) in PIXELS here, as each dataset states them. They may overrun the image.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, suggest
from ..stores.place import Url, place

__all__ = ["DATASETS", "Archive", "Dataset", "DatasetRow", "Record", "read"]

PixelBoxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a dataset, before its file is read."""

    id: str
    file: str
    """Path relative to the dataset's root, with forward slashes. For drawn, a stable name that has no file."""
    label: int
    """0-based."""
    class_name: str
    split: str
    """train or test."""
    boxes: PixelBoxes | None = ()
    """Ground truth in pixels. () if there is none; None if only `Dataset.load` can give it."""
    upright: bool = False
    """Turn the image upright by its EXIF orientation. False if boxes or labels belong to the stored pixel grid."""
    size: tuple[int, int] | None = None
    """(width, height) of the image that the boxes were drawn on, if the annotations state it."""


@dataclass(frozen=True)
class Dataset:
    """All records of a dataset, and the function that loads an image. Picklable, for worker processes."""

    name: str
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    load: Callable[[Record], tuple[bytes, PixelBoxes]]
    """Record -> (encoded image bytes, boxes in pixels). Raises InputError if a file cannot be read."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options that define the dataset in addition to its files. Written to the manifest as JSON."""
    note: str = ""
    """Remarks for the user: that it is a subset, what was left out. Printed; not part of a shard set."""


@dataclass(frozen=True)
class Archive:
    """A file that the publisher of a dataset offers for download."""

    url: str
    md5: str
    """As published, or as widely used loaders expect it."""

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class DatasetRow:
    """What `fgdata list` and error messages say about a dataset without importing its reader."""

    reader: str
    """module:function. Called as function(root, **options), or function(**options) if `files` is False."""
    layout: str
    """The files that the reader expects in the root."""
    size: str
    where: str
    """Where to get the dataset."""
    options: tuple[str, ...] = ()
    files: bool = True
    """False for a dataset that code generates: it has no root."""
    root_from: str = ""
    """An option that names a file, or several; the folder that holds them is the default root."""
    archives: tuple[Archive, ...] = ()
    """What --download fetches, in the order of unpacking. Empty if the publisher requires accepting terms, or has no
    stable address."""


_GTSRB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018/"
_COCO = "http://images.cocodataset.org/"  # the server offers only http; the MD5 protects the content

DATASETS: dict[str, DatasetRow] = {
    "drawn": DatasetRow(
        reader="fgdata.datasets.drawn.dataset:read",
        layout="none: birds drawn by code",
        size="20 classes, 60 images each",
        where="nothing to download",
        options=("classes", "images_per_class", "size", "seed"),
        files=False,
    ),
    "cub": DatasetRow(
        reader="fgdata.datasets.cub:read",
        layout="images.txt  image_class_labels.txt  train_test_split.txt  bounding_boxes.txt  classes.txt  images/"
        "   (in the root, or in CUB_200_2011/ inside it)",
        size="200 classes, 5,994 train, 5,794 test, boxes; a subset in the same layout also works",
        where="https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz, 1.1 GB)",
        archives=(
            Archive(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
            ),
        ),
    ),
    "cars": DatasetRow(
        reader="fgdata.datasets.cars:read",
        layout="cars_annos.mat  car_ims/   (or: devkit/cars_meta.mat  devkit/cars_train_annos.mat"
        "  cars_test_annos_withlabels.mat in devkit/ or beside it  cars_train/  cars_test/; or: names.csv"
        "  anno_train.csv  anno_test.csv  car_data/)",
        size="196 classes, 8,144 train, 8,041 test, boxes",
        where="https://ai.stanford.edu/~jkrause/cars/car_dataset.html, which no longer serves the files; Kaggle has "
        "copies of all layouts. The .mat files need SciPy: pip install scipy",
    ),
    "pets": DatasetRow(
        reader="fgdata.datasets.pets:read",
        layout="images/  annotations/trainval.txt  annotations/test.txt  annotations/xmls/"
        "   (in the root, or in oxford-iiit-pet/ inside it)",
        size="37 classes, 3,680 train, 3,669 test, boxes of the heads of most train images",
        where="https://www.robots.ox.ac.uk/~vgg/data/pets/ (images.tar.gz, annotations.tar.gz, 0.8 GB)",
        archives=(
            Archive(f"{_PETS}images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive(f"{_PETS}annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
    ),
    "dogs": DatasetRow(
        reader="fgdata.datasets.dogs:read",
        layout="Images/  Annotation/  train_list.mat  test_list.mat   (the lists may be in lists/)",
        size="120 classes, 12,000 train, 8,580 test, boxes",
        where="http://vision.stanford.edu/aditya86/ImageNetDogs/ (images.tar, annotation.tar, lists.tar, 0.8 GB). "
        "Needs SciPy: pip install scipy",
    ),
    "flowers": DatasetRow(
        reader="fgdata.datasets.flowers:read",
        layout="jpg/  imagelabels.mat  setid.mat   (in the root, or in flowers-102/ inside it)",
        size="102 classes, 2,040 train (train and validation), 6,149 test, no boxes",
        where="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ (102flowers.tgz, imagelabels.mat, setid.mat, "
        "0.3 GB). Needs SciPy: pip install scipy",
    ),
    "aircraft": DatasetRow(
        reader="fgdata.datasets.aircraft:read",
        layout="images_box.txt  images_variant_trainval.txt  images_variant_test.txt  variants.txt  images/"
        "   (in the root, or in fgvc-aircraft-2013b/data/ inside it)",
        size="100 variants (70 families, 30 manufacturers), 6,667 train, 3,333 test, boxes",
        where="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/ (fgvc-aircraft-2013b.tar.gz, 2.8 GB)",
        options=("level",),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "d4acdd33327262359767eeaa97a4f732",
            ),
        ),
    ),
    "nabirds": DatasetRow(
        reader="fgdata.datasets.nabirds:read",
        layout="images.txt  image_class_labels.txt  train_test_split.txt  bounding_boxes.txt  classes.txt  images/"
        "   (in the root, or in nabirds/ inside it)",
        size="555 classes, 23,929 train, 24,633 test, boxes",
        where="https://dl.allaboutbirds.org/nabirds, after accepting its terms",
    ),
    "inat2018": DatasetRow(
        reader="fgdata.datasets.inat2018:read",
        layout="train2018.json  val2018.json  train_val2018/   (optional: categories.json, for species names)",
        size="8,142 classes, 437,513 train, 24,426 validation (the test split here), no boxes",
        where="https://github.com/visipedia/inat_comp/tree/master/2018 (train_val2018.tar.gz, 120 GB)",
        archives=(
            Archive(f"{_INAT}train2018.json.tar.gz", "bfa29d89d629cbf04d826a720c0a68b0"),
            Archive(f"{_INAT}val2018.json.tar.gz", "f2ed8bfe3e9901cdefceb4e53cd3775d"),
            Archive(f"{_INAT}train_val2018.tar.gz", "b1c6952ce38f31868cc50ea72d066cc3"),
        ),
    ),
    "gtsrb": DatasetRow(
        reader="fgdata.datasets.gtsrb:read",
        layout="GTSRB/Final_Training/Images/  GTSRB/Final_Test/Images/  GT-final_test.csv"
        "   (or torchvision's: GTSRB/Training/ for Final_Training/; or Kaggle's: Train.csv  Test.csv  Train/  Test/)",
        size="43 classes, 39,209 train, 12,630 test, boxes",
        where="https://benchmark.ini.rub.de/gtsrb_dataset.html (GTSRB_Final_*.zip, 0.4 GB)",
        archives=(
            Archive(f"{_GTSRB}GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
            Archive(f"{_GTSRB}GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
            Archive(f"{_GTSRB}GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        ),
    ),
    "isic2017": DatasetRow(
        reader="fgdata.datasets.isic2017:read",
        layout="ISIC-2017_Training_Data/  ISIC-2017_Training_Part1_GroundTruth/  ISIC-2017_Training_Part3_GroundTruth"
        ".csv  and the same three with Test_v2",
        size="3 classes, 2,000 train, 600 test, boxes around lesion masks; the 150 validation images are not read",
        where="https://challenge.isic-archive.com/data/#2017, under its terms",
    ),
    "cifar100": DatasetRow(
        reader="fgdata.datasets.cifar100:read",
        layout="meta  train  test   (in the root, or in cifar-100-python/ inside it)",
        size="100 classes, 50,000 train, 10,000 test, 32 x 32 pixels, no boxes",
        where="https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz, 0.2 GB)",
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        ),
    ),
    "imagenet": DatasetRow(
        reader="fgdata.datasets.folder:read_imagenet",
        layout="train/WORDNET-ID/IMAGE  val/WORDNET-ID/IMAGE",
        size="1,000 classes, 1,281,167 train, 50,000 validation (the test split here), no boxes",
        where="https://image-net.org/download.php, with an account and its terms accepted",
    ),
    "imagenet100": DatasetRow(
        reader="fgdata.datasets.folder:read_imagenet100",
        layout="imagenet100.txt (100 WordNet ids, one per line; or --class-list FILE)  train/  val/  as for imagenet",
        size="100 of ImageNet's classes, 5,000 validation images (the test split here), no boxes",
        where="https://image-net.org/download.php for the images; the class list is in the paper you compare with",
        options=("class_list",),
    ),
    "coco": DatasetRow(
        reader="fgdata.datasets.coco:read",
        layout="annotations/instances_train2017.json  annotations/instances_val2017.json  train2017/  val2017/"
        "   (or 2014; the image folders may be in images/; or --annotations FILE [TEST-FILE] of that form, IMAGE ...)",
        size="80 classes, 118,287 train, 5,000 validation (the test split), many boxes: the largest gives the class",
        where="https://cocodataset.org/#download (train2017.zip, val2017.zip, annotations_trainval2017.zip, 20 GB)",
        archives=(
            Archive(f"{_COCO}annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
            Archive(f"{_COCO}zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
            Archive(f"{_COCO}zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
        ),
        options=("annotations", "test_fraction", "split_seed"),
        root_from="annotations",
    ),
    "folder": DatasetRow(
        reader="fgdata.datasets.folder:read",
        layout="CLASS/IMAGE, all train   (or train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/train/IMAGE and "
        "CLASS/test/IMAGE; train/ may be called training/, test/ may be called testing/, val/, valid/ or validation/)",
        size="any, no boxes",
        where="your own images; folder names are class names",
        options=("test_fraction", "split_seed", "split_folders"),
    ),
    "table": DatasetRow(
        reader="fgdata.datasets.table:read",
        layout="labels.csv (or --table FILE) with the columns path, label, x, y, w, h, split (only path is needed)",
        size="any; boxes in pixels, one row each",
        where="your own images and labels",
        options=("table", "test_fraction", "split_seed"),
        root_from="table",
    ),
    "flat": DatasetRow(
        reader="fgdata.datasets.folder:read_flat",
        layout="IMAGE IMAGE ...   (one folder, no labels; all train)",
        size="any, one class, no boxes",
        where="your own images",
    ),
}


SUBSET = ("classes", "images_per_class")
"""Options that choose a part of every dataset whose row does not list them."""


def default_root(name: str) -> Path:
    """$FGDATA_ROOT/<name> if that variable is set, else data/<name>."""
    return Path(os.environ.get("FGDATA_ROOT") or "data") / name


def read(name: str, root: Path | Url | str | None = None, **options: Any) -> Dataset:
    """Reads the lists of a dataset and checks that its files exist. Opens no image.

    Args:
        name: A key of DATASETS.
        root: The dataset's folder, or its s3:// or gs:// URL: its files are then copied to this machine (remote.py).
            Default: `default_root(name)`.
        **options: What the dataset's row lists as `options`, for example level="family" for aircraft; `classes` and
            `images_per_class` choose a part of any other dataset (subset.py).

    Raises InputError if the name or an option is unknown, the folder is missing, or a list is not as published.

        birds = read("cub", "data/cub")
        record = birds.records[0]
        data, boxes = birds.load(record)   # encoded image bytes, ((l, t, w, h), ...) in pixels
    """
    if name not in DATASETS:
        raise InputError(
            f"Unknown dataset {name!r}.{suggest(name, DATASETS)} Available: {', '.join(DATASETS)}. See: "
            "fgdata list. For one of your own, add --plugin MODULE (docs/extending.md)"
        )
    row = DATASETS[name]
    part = {key: options.pop(key) for key in SUBSET if key in options and key not in row.options}
    if part:
        from .subset import take

        return take(read(name, root, **options), **part)
    if unknown := sorted(set(options) - set(row.options)):
        allowed = dict.fromkeys((*SUBSET, *row.options))
        raise InputError(f"Dataset {name} has no {_flags(unknown)}; it takes {_flags(allowed)}.")
    if root is None and row.root_from in options:
        given = options[row.root_from]
        files = [given] if isinstance(given, str | Path) else list(given)
        root = Path(os.path.commonpath([Path(file).absolute().parent for file in files]))
    module, function = row.reader.split(":")
    reader = getattr(import_module(module), function)
    if not row.files:
        if root is not None:
            raise InputError(f"Dataset {name} is generated by code and reads no files. Omit --root {root}")
        return reader(**options)
    return reader(_existing_root(name, row, root), **options)


def _flags(options: Iterable[str]) -> str:
    """Options as build-shards calls them: "--size, --test-fraction"."""
    return ", ".join("--" + option.replace("_", "-") for option in options)


def _existing_root(name: str, row: DatasetRow, root: Path | Url | str | None) -> Path:
    path = default_root(name) if root is None else place(root)
    if isinstance(path, Url):
        from .remote import copy_dataset

        return copy_dataset(path)
    if path.is_dir():
        return path
    absent = "is a link that leads nowhere or to itself" if path.is_symlink() else "does not exist"
    state = "is a file, not a folder" if path.exists() else absent
    variable = os.environ.get("FGDATA_ROOT")
    hint = "\nOr download it to that folder: add --download" if row.archives else ""
    source = "given by --root" if root is not None else f"the default; FGDATA_ROOT is {variable or 'not set'}"
    raise InputError(
        f"Dataset {name} not found: looked in {path.absolute()} ({source}), which {state}.\n"
        f"Expected layout: {row.layout}\n"
        f"Get it: {row.where}{hint}\n"
        f"Then: fgdata build-shards --dataset {name} --root FOLDER\n"
        f"(or set FGDATA_ROOT to the folder that contains {name}/)"
    )
