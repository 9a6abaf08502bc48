"""Retrieval against scikit-learn and against loops, on random features; ties; images alone in their class."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fgdata.errors import InputError
from fgtrain.evaluate import retrieval


def random_features(n: int = 90, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, 12, generator=generator, dtype=torch.float64) + 0.5 * labels[:, None], labels


def by_loops(x: np.ndarray, y: np.ndarray) -> tuple[list[int], list[float]]:
    """Rank of the first positive, and scikit-learn's average precision, of every query that has a positive."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    first, precision = [], []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        similarity, right = np.array([x[i] @ x[j] for j in others]), np.array([y[i] == y[j] for j in others])
        if right.any():
            first.append(1 + sum(s >= similarity[right].max() for s in similarity[~right]))
            precision.append(average_precision_score(right, similarity))
    return first, precision


@pytest.mark.parametrize("cells", [1, 400, 1 << 23])
def test_agrees_with_scikit_learn(cells: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "CELLS", cells)
    features, labels = random_features()
    first, precision = by_loops(features.numpy(), labels.numpy())
    order = labels.argsort(stable=True)  # the result is in the order of labels
    result = retrieval.retrieve(features, labels)
    assert result.first.tolist() == [first[i] for i in order]
    np.testing.assert_allclose(result.precision, [precision[i] for i in order], rtol=1e-12)
    assert result.rank(5).mean() == np.mean([f <= 5 for f in first])


def test_ties_agree_with_scikit_learn_and_count_against_the_encoder():
    generator = torch.Generator().manual_seed(1)
    features = torch.eye(4)[torch.randint(4, (60,), generator=generator)]  # cosines of exactly 0 or 1
    labels = torch.randint(3, (60,), generator=generator)
    first, precision = by_loops(features.numpy(), labels.numpy())
    order = labels.argsort(stable=True)
    result = retrieval.retrieve(features, labels)
    assert result.first.tolist() == [first[i] for i in order]
    np.testing.assert_allclose(result.precision, [precision[i] for i in order], rtol=1e-12)


def test_a_constant_encoder_finds_nothing():
    result = retrieval.retrieve(torch.ones(10, 4), torch.arange(10) % 2)
    assert not result.rank(1).any()
    assert result.precision == pytest.approx(4 / 9)


def over_all_rankings(positives: int, n: int) -> float:
    """Mean average precision over every choice of ranks for the positives."""
    places = list(combinations(range(1, n + 1), positives))
    return sum(sum(i / k for i, k in enumerate(taken, 1)) / positives for taken in places) / len(places)


@pytest.mark.parametrize("n", range(1, 9))
def test_chance_is_the_mean_over_all_rankings(n: int):
    ours = retrieval.random_precision(np.arange(1, n + 1), n)
    np.testing.assert_allclose(ours, [over_all_rankings(r, n) for r in range(1, n + 1)], rtol=1e-12)
    if n == 8:
        result = retrieval.retrieve(torch.randn(9, 4), torch.tensor([2, 0, 0, 1, 1, 0, 1, 1, 3]))
        np.testing.assert_allclose(result.chance, [over_all_rankings(r, 8) for r in [2] * 3 + [3] * 4], rtol=1e-12)


def test_the_order_of_the_gallery_has_no_effect():
    features, labels = random_features()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))
    ours, theirs = retrieval.retrieve(features, labels), retrieval.retrieve(features[shuffled], labels[shuffled])
    assert sorted(ours.precision) == pytest.approx(sorted(theirs.precision))


def test_an_image_alone_in_its_class_is_in_the_gallery_but_is_not_a_query():
    features = torch.tensor([[1.0, 0], [0.9, 0.1], [1, 0.01], [0, 1]])
    result = retrieval.retrieve(features, torch.tensor([0, 0, 1, 2]))
    assert result.first.tolist() == [2, 2]  # the only image of class 1 ranks before the positive
    assert result.precision.tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="class with two test images"):
        retrieval.retrieve(features, torch.arange(4))
