"""Two MoCo v2 views by other libraries, each used as its documentation shows: endless batches from JPEG files.

Every function yields the number of samples of each batch. lightly and torchvision run in worker processes of a
DataLoader, as is usual. On a GPU, images are decoded on the device and transformed one by one, because every crop has
a different size.
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # otherwise lightly contacts its server

Stream = Generator[int, None, None]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files(Dataset):
    """Item i is `both`(file i): two views of a JPEG file."""

    def __init__(self, files: list[Path], both: Callable):
        self.files, self.both = files, both

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int):
        return self.both(self.files[i])


class Twice:
    """Two views of an image by one transform."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __call__(self, image: Image.Image | torch.Tensor) -> list:
        return [self.transform(image), self.transform(image)]


def mocov2(size: int, *end: torch.nn.Module) -> v2.Compose:
    """MoCo v2 in torchvision, in its order; `end` are the steps between the flip and the conversion to floats."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5),
            v2.RandomHorizontalFlip(),
            *end,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def lightly(files: list[Path], size: int, batch: int, workers: int) -> Stream:
    from lightly.transforms.moco_transform import MoCoV2Transform

    return _worked(files, partial(_opened, transform=MoCoV2Transform(size)), batch, workers)


def torchvision_pil(files: list[Path], size: int, batch: int, workers: int) -> Stream:
    return _worked(files, partial(_opened, transform=Twice(mocov2(size, v2.PILToTensor()))), batch, workers)


def torchvision_tensor(files: list[Path], size: int, batch: int, workers: int) -> Stream:
    return _worked(files, partial(_decoded, transform=Twice(mocov2(size))), batch, workers)


def torchvision_cuda(files: list[Path], size: int, batch: int, device: torch.device) -> Stream:
    """nvJPEG decodes a batch at a time; the transforms run on the device, one image at a time."""
    transform = mocov2(size)
    for encoded in _read(files, batch):
        images = decode_jpeg(encoded, ImageReadMode.RGB, device=device)
        for _ in range(2):
            torch.stack([transform(image) for image in images])
        yield batch


def kornia_cuda(files: list[Path], size: int, batch: int, device: torch.device) -> Stream:
    """nvJPEG decodes; images are resized to one size (kornia takes batches only), then transformed as batches."""
    import kornia.augmentation as k  # pyright: ignore[reportMissingImports]

    side = round(size * 256 / 224) * 2
    transform = k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(0.2, 1.0), cropping_mode="resample"),
        k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5),
        k.RandomHorizontalFlip(),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
    ).to(device)
    resize = v2.Resize((side, side), antialias=True)
    for encoded in _read(files, batch):
        images = decode_jpeg(encoded, ImageReadMode.RGB, device=device)
        whole = torch.stack([resize(image) for image in images]).float() / 255
        for _ in range(2):
            transform(whole)
        yield batch


def _opened(file: Path, transform: Callable) -> list:
    return transform(Image.open(file).convert("RGB"))


def _decoded(file: Path, transform: Callable) -> list:
    return transform(decode_jpeg(read_file(str(file)), ImageReadMode.RGB))


def _worked(files: list[Path], both: Callable, batch: int, workers: int) -> Stream:
    """The workers are forked from a process without threads: forks of this one crash once torch or DALI has threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchvision.transforms.v2", "lightly.transforms.moco_transform"])
    data = Files(files, both)
    order = RandomSampler(data, replacement=True, num_samples=1 << 31)
    for x1, _ in DataLoader(data, batch, sampler=order, num_workers=workers, multiprocessing_context=context):
        yield len(x1)


def _read(files: list[Path], batch: int) -> Iterator[list[torch.Tensor]]:
    numbers = (int(i) for _ in iter(int, 1) for i in torch.randperm(len(files)))
    while True:
        yield [read_file(str(files[i])) for i in islice(numbers, batch)]
