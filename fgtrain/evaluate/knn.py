"""k nearest neighbours on frozen features: the train split votes, the test split is scored."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

from ..networks.encoder import Encoder
from ..settings.common import need
from .probe import Rows, embed

CELLS = 1 << 26
"""Similarities at a time: 256 MiB."""


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor | None, k: int, temperature: float, classes: int
) -> Tensor:
    """(N, n), (N,), (Q, n) -> (Q,) classes voted by the k most similar rows (cosine). Ties go to the lowest class.

    A vote has the weight exp(cosine / temperature) (Wu et al., CVPR 2018, section 3.4), or 1 when temperature is 0.
    Without queries -> (N,): the class of each row of the bank, for which all the others vote (k < N).
    """
    bank, predictions, done = F.normalize(bank, dim=1), [], 0
    scored = bank if queries is None else F.normalize(queries, dim=1)
    for rows in scored.split(min(1024, max(1, CELLS // len(bank)))):
        similarity = rows @ bank.T
        if queries is None:
            similarity.diagonal(done).fill_(-torch.inf)
            done += len(rows)
        similarity, nearest = similarity.topk(min(k, len(bank)))  # (Q, k)
        below = similarity - similarity[:, :1]  # to the largest, since exp(1 / temperature) may overflow float32
        weight = (below / temperature).exp() if temperature > 0 else torch.ones_like(similarity)
        votes = weight.new_zeros(len(rows), classes).scatter_add_(1, labels[nearest], weight)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def check_k(k: int, images: int, left_out: bool, name: str = "k", when: str = "") -> None:
    """InputError, naming the setting, unless k of the images of the train split can vote.

    left_out: whether these images are scored, so that one of them has no vote; `when` adds to the message why they are.
    """
    voters, but = images - left_out, f" but the scored one{when}" if left_out else ""
    need(1 <= k <= voters, name, k, f"1 to {voters:,}, the images of the train split{but}")


def knn(encoder: Encoder, shards: ShardSet, size: int, device: torch.device, k: int, temperature: float) -> Tensor:
    """-> (n,) bool: whether each test sample is classified right by its neighbours in the train split.

    Features are those of the central square at `size` pixels.
    """
    view = encoder.evaluation_view(size)
    train, test = (embed(encoder, shards, split, view, device) for split in ("train", "test"))
    return classify(train, test, k, temperature, len(shards.classes))


def with_company(labels: Tensor) -> Tensor:
    """(N,) labels -> (N,) bool: whether another image has the same class. InputError if none has."""
    several = labels.bincount()[labels] > 1
    if not several.any():
        raise InputError(
            "No class of the train split has two images, so no image has a neighbour of its class. Omit --split train."
        )
    return several


def classify_each(train: Rows, k: int, temperature: float, classes: int) -> Tensor:
    """-> (n,) bool: whether each train row whose class has several is classified right by its k neighbours among the
    other rows. InputError as `with_company`."""
    features, labels, _ = train
    return (knn_predict(features, labels, None, k, temperature, classes) == labels)[with_company(labels)]


def classify(train: Rows, test: Rows, k: int, temperature: float, classes: int) -> Tensor:
    """-> (n,) bool: whether each of the n test rows is classified right by its k neighbours among the train rows."""
    return knn_predict(train[0], train[1], test[0], k, temperature, classes) == test[1]
