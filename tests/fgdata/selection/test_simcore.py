"""The choice against naive loops written from the equation, and centres against known groups."""

import itertools
import tracemalloc

import numpy as np
import pytest

from fgdata.selection.simcore import choose, count_bytes, find_centres, k_means, similarities, unit


def naive(cosines: np.ndarray, budget: int, stop: float = 0) -> list[int]:
    """Rounds by full scans: each centre takes the most similar image that no earlier round took."""
    chosen: list[int] = []
    first = None
    while len(chosen) < budget:
        picks, total = {}, 0.0
        for row in cosines:
            free = [u for u in range(cosines.shape[1]) if u not in chosen]
            u = max(free, key=lambda u: (row[u], -u))
            picks[u] = max(picks.get(u, -2.0), float(row[u]))
            total += float(row[u])
        first = total if first is None else first
        if stop and chosen and total < stop * first:
            break
        ranked = sorted(picks, key=lambda u: (-picks[u], u))
        chosen += ranked[: budget - len(chosen)]
    return sorted(chosen)


@pytest.mark.parametrize(("budget", "stop"), [(1, 0), (3, 0), (17, 0), (40, 0), (40, 0.9)])
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_the_rounds_are_those_of_full_scans(budget: int, stop: float, levels: int | None):
    cosines = np.random.default_rng(budget).uniform(-1, 1, (5, 40)).astype(np.float32)
    if levels:
        cosines = np.round(cosines * levels) / levels
    numbers, rounds = choose(cosines, budget, stop)
    assert numbers.tolist() == naive(cosines, budget, stop)
    assert rounds == sorted(rounds, reverse=True)  # what is left is never nearer
    assert len(numbers) == budget or stop


def test_the_first_round_maximises_the_objective_over_all_subsets():
    rng = np.random.default_rng(0)
    pool, centres = unit(rng.normal(size=(8, 3))), unit(rng.normal(size=(3, 3)))
    cosines = similarities([pool[:5], pool[5:]], centres, 8)
    np.testing.assert_allclose(cosines, centres @ pool.T, atol=1e-7)  # stored in float32
    numbers, _ = choose(cosines, 3)
    best = max(cosines[:, list(s)].max(1).sum() for s in itertools.combinations(range(8), 3))
    assert cosines[:, numbers].max(1).sum() == pytest.approx(best, abs=1e-6)


def test_stop_ends_where_the_rest_is_less_similar():
    cosines = np.array([[1.0, 0.97, 0.9, 0.2]], np.float32)
    assert choose(cosines, 4, stop=0.95)[0].tolist() == [0, 1]
    assert choose(cosines, 4, stop=0.85)[0].tolist() == [0, 1, 2]


def test_centres_are_the_means_of_separate_groups_and_do_not_depend_on_the_call():
    rng = np.random.default_rng(1)
    axes = np.eye(6)[:4]
    target = unit(np.repeat(axes, 30, 0) + 0.05 * rng.normal(size=(120, 6)))
    centres = find_centres(target, 4)
    order = (centres @ axes.T).argmax(1)
    assert sorted(order) == [0, 1, 2, 3]
    for centre, group in zip(centres, order):
        np.testing.assert_allclose(centre, unit(target[30 * group : 30 * group + 30].mean(0)[None])[0], atol=1e-12)
    np.testing.assert_array_equal(centres, find_centres(target, 4))


def test_every_mean_is_that_of_the_rows_nearest_to_it():
    target = unit(np.random.default_rng(2).normal(size=(60, 5)))
    means = k_means(target, 7, seed=3)
    groups: list[list[np.ndarray]] = [[] for _ in means]
    for x in target:
        distances = [sum((a - b) ** 2 for a, b in zip(x, mean)) for mean in means]
        groups[distances.index(min(distances))].append(x)
    for mean, group in zip(means, groups):
        np.testing.assert_allclose(mean, sum(group) / len(group), atol=1e-12)
    np.testing.assert_allclose(find_centres(target, 7, seed=3), [m / (m @ m) ** 0.5 for m in means], atol=1e-12)


def test_few_or_equal_images_have_centres_too():
    three = unit(np.random.default_rng(0).normal(size=(3, 4)))
    np.testing.assert_array_equal(find_centres(three, 5), three)
    equal = np.tile(unit(np.ones((1, 4))), (9, 1))
    centres = find_centres(equal, 4)
    assert np.isfinite(centres).all()
    assert choose(similarities([equal], centres, 9), 2)[0].tolist() == [0, 1]
    assert unit(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2


def test_rows_that_repeat_have_no_centres_of_length_zero():
    """Zeros would be equally near to all images, so the first of the pool would be chosen."""
    different, pool = np.eye(16)[:6], np.random.default_rng(0).normal(size=(200, 16))
    centres = find_centres(np.repeat(different, 5, 0), 10)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1)
    assert {*map(tuple, centres.tolist())} == {*map(tuple, different.tolist())}
    numbers, expected = (choose(similarities([pool], rows, 200), 30)[0].tolist() for rows in (centres, different))
    assert numbers == expected


def test_a_batch_that_is_missing_is_noticed():
    features = unit(np.random.default_rng(0).normal(size=(7, 3)))
    for count in (6, 8):
        with pytest.raises(ValueError, match="broadcast|the encoder gave 7 features for 8"):
            similarities([features[:4], features[4:]], features[:2], count)


@pytest.mark.parametrize(("target", "pool", "centres", "budget"), [(40, 3000, 8, 1500), (8, 5000, 20, 5000)])
def test_the_memory_of_a_choice_is_what_was_counted(target: int, pool: int, centres: int, budget: int):
    """Within a few arrays of one value per image, and the features themselves."""
    rng = np.random.default_rng(0)
    x, u = unit(rng.normal(size=(target, 4))), rng.normal(size=(pool, 4)).astype(np.float32)
    tracemalloc.start()
    middle = find_centres(x, centres)
    choose(similarities((u[i : i + 100] for i in range(0, pool, 100)), middle, pool), budget)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count_bytes(target, pool, centres, budget) <= most
    assert most <= count_bytes(target, pool, centres, budget) + 64 * pool + 50_000
