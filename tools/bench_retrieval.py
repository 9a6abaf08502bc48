"""tools/bench.py retrieval: exact retrieval over the full ranking, compared with other libraries query by query."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_report import report
from bench_step import spread

from fgdata.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def retrieval(
    images: int = 12_000,
    peer_images: int = 2_000,
    dimensions: int = 512,
    classes: int = 200,
    rounds: int = 5,
    threads: int = 2,
    json: Path | None = None,
) -> None:
    """Seconds to rank all other images for every query image, from features to average precision.

    Ours also computes rank-1 and rank-5. The peers compute the whole similarity matrix and call their library once per
    query. scikit-learn defines average precision as we do, ties included; torchmetrics keeps ties in input order. All
    are compared at `peer_images`; a ratio compares two times of the same round.

    Args:
        images: number of images for ours alone.
        peer_images: number of images for the comparison with the peers.
        dimensions: dimensions of a feature.
        classes: number of classes, of equal size except for a remainder.
        rounds: measured rounds, after a warm-up round; the table shows minimum, median and maximum.
        threads: threads of torch.
        json: file to write the figures to.
    """
    import torch

    if not 2 * classes <= peer_images <= images:
        raise InputError(f"--peer-images is {peer_images}; allowed: {2 * classes} (two per class) to {images}.")
    torch.set_num_threads(threads)
    large, small = (clusters(n, dimensions, classes) for n in (images, peer_images))
    cases = {
        "fgtrain": (ours, large),
        "fgtrain, as many as the others": (ours, small),
        "scikit-learn": (scikit_learn, small),
        "torchmetrics": (torch_metrics, small),
    }
    precision = {name: run(*rows) for name, (run, rows) in cases.items()}  # also the warm-up round
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (run, rows) in cases.items():
            start = time.perf_counter()
            run(*rows)
            seconds[name].append(time.perf_counter() - start)
    base = seconds["fgtrain, as many as the others"]
    figures: list[dict[str, Any]] = []
    for name, (run, (features, _)) in cases.items():
        ratios = [] if run is ours else [theirs / own for theirs, own in zip(seconds[name], base)]
        figures.append({"retrieval": name, "images": len(features)} | spread("s", seconds[name]))
        figures[-1] |= spread("ratio", ratios) | {"map": precision[name], "n": rounds}
        figures[-1] |= {"dimensions": dimensions, "classes": classes, "threads": threads}
    report("retrieval", figures, json, ("torch", "scikit-learn", "torchmetrics"))


def clusters(images: int, dimensions: int, classes: int) -> tuple["Tensor", "Tensor"]:
    """Features (N, n), normally distributed around one centre per class, and labels (N,)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, dimensions, generator=generator)
    return 0.3 * centres[labels] + torch.randn(images, dimensions, generator=generator), labels


def ours(features: "Tensor", labels: "Tensor") -> float:
    """(N, n), (N,) -> mAP, as the functions below."""
    from fgtrain.evaluate.retrieval import retrieve

    return float(retrieve(features, labels).precision.mean())


def scikit_learn(features: "Tensor", labels: "Tensor") -> float:
    from sklearn.metrics import average_precision_score

    return each(features, labels, lambda s, right: average_precision_score(right.numpy(), s.numpy()))


def torch_metrics(features: "Tensor", labels: "Tensor") -> float:
    from torchmetrics.functional.retrieval import retrieval_average_precision

    # torchmetrics ignores positives whose similarity is not above 0.
    return each(features, labels, lambda s, right: retrieval_average_precision(2 + s, right).item())


def each(features: "Tensor", labels: "Tensor", precision: Callable[["Tensor", "Tensor"], Any]) -> float:
    """Mean over all images of `precision`(similarities (N - 1,) to the other images, whether each is of its class)."""
    import torch

    x = torch.nn.functional.normalize(features)
    similarity = x @ x.T
    total = 0.0
    for i in range(len(x)):
        others = torch.arange(len(x)) != i
        total += float(precision(similarity[i][others], labels[others] == labels[i]))
    return total / len(x)
