"""The linear layer on separable features, its learning rates, fractions of the labels, intervals against scipy."""

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from sklearn.preprocessing import normalize

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgdata.views import ViewSpec
from fgtrain.evaluate import intervals, linear, probe
from fgtrain.networks.encoder import Encoder
from fgtrain.settings.common import Model

CPU = torch.device("cpu")


def clusters(seed: int, n: int, spread: float, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, 16, generator=generator), labels, torch.arange(n)


@pytest.mark.parametrize("protocol", linear.PROTOCOLS.values(), ids=linear.PROTOCOLS)
def test_learns_separable_features(protocol: linear.Protocol):
    rows = clusters(0, 120, spread=0.3)
    trial = linear.Trial(rows[1], 1.0, 16, 5, protocol, seed=0)
    linear.fit(repeat(rows), [trial], protocol, CPU)
    best = trial.best(rows)
    assert best.rate in protocol.rates
    assert best.right(clusters(1, 100, spread=0.3)).float().mean() > 0.95


def test_protocols_equal_the_published_ones():
    """MoCo's linear protocol (He et al. 2020, 4.1) with batches of 128, as in ECCV 2024; CVSA, appendix A."""
    assert {
        "synth-pair": linear.Protocol(epochs=100, batch_size=128, rates=(30.0,), drops=(0.6, 0.8)),
        "lcr": linear.Protocol(epochs=100, batch_size=256, rates=(30.0,), drops=(0.6, 0.8), unit=True),
        "cvsa": linear.Protocol(epochs=50, batch_size=16, rates=(0.1, 0.01, 0.001), drops=()),
    } == linear.PROTOCOLS


def test_the_rate_drops_twice_or_follows_a_cosine():
    moco, cvsa = (linear.PROTOCOLS[name] for name in ("synth-pair", "cvsa"))
    steps = [7 * epoch for epoch in (0, 59, 60, 79, 80, 99)]  # 7 to an epoch
    assert [moco.rate(step, 700, 30.0) for step in steps] == pytest.approx([30, 30, 3, 3, 0.3, 0.3])
    assert moco.rate(7 * 60 - 1, 700, 30.0) == 30
    assert [replace(moco, epochs=5).rate(step, 5, 30.0) for step in range(5)] == pytest.approx([30, 30, 30, 3, 0.3])
    assert [cvsa.rate(step, 50, 0.1) for step in (0, 25, 50)] == pytest.approx([0.1, 0.05, 0])


@pytest.mark.parametrize("cache", [True, False])
def test_lcr_learns_from_sklearns_unit_rows(cache: bool, monkeypatch: pytest.MonkeyPatch):
    """Of features at many lengths: as without `unit` from the rows that scikit-learn normalises."""
    protocol = replace(linear.PROTOCOLS["lcr"], epochs=5)
    encoder, shards = SimpleNamespace(normalised=lambda spec: spec), SimpleNamespace(classes=range(5))

    def right(by: Callable, unit: bool) -> torch.Tensor:
        train, test = ((by(f), *rest) for f, *rest in (clusters(0, 200, 2.0), clusters(1, 300, 2.0)))
        monkeypatch.setattr(linear, "passes", lambda *_: repeat(train))
        options: Any = (shards, 32, CPU, replace(protocol, unit=unit), cache, (1.0,), 1, 0)
        return linear.linear(encoder, train, test, *options)[1.0][0][0]  # type: ignore[arg-type]

    def lengthened(f: torch.Tensor) -> torch.Tensor:
        return f * torch.linspace(0.1, 30, len(f))[:, None]

    def unit_rows(f: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(normalize(f.numpy()))

    found = right(lengthened, True)
    assert torch.equal(found, right(unit_rows, False))
    assert not torch.equal(found, right(lengthened, False))
    assert found.float().mean() > 0.5


def test_layers_learn_as_one_at_a_time_by_torchs_sgd():
    """Two trials at two rates, together, against a loop over batches for each layer alone in float64."""
    protocol, rows = linear.Protocol(5, 45, (3.0, 0.2), drops=(0.6, 0.8)), clusters(0, 100, spread=1.0)
    trials = [linear.Trial(rows[1], 0.7, 16, 5, protocol, seed) for seed in (0, 1)]
    linear.fit(repeat(rows), trials, protocol, CPU)
    for student in (s for trial in trials for s in (*trial.students, *trial.searching)):
        generator = torch.Generator().manual_seed(int(student in (*trials[1].students, *trials[1].searching)))
        layer = torch.nn.Linear(16, 5).double()
        layer.weight.data = torch.empty(5, 16).normal_(0, 0.01, generator=generator).double()
        layer.bias.data.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0, momentum=0.9)
        for epoch in range(5):
            own = student.allowed.nonzero()[:, 0]
            for chosen in own[torch.randperm(len(own), generator=generator)].split(45):
                optimizer.param_groups[0]["lr"] = student.rate * (1, 1, 1, 0.1, 0.01)[epoch]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(rows[0][chosen].double()), rows[1][chosen]).backward()
                optimizer.step()
        torch.testing.assert_close(student.weight.double(), layer.weight.data, rtol=1e-3, atol=1e-4)  # float32
        torch.testing.assert_close(student.bias.double(), layer.bias.data, rtol=1e-3, atol=1e-4)
        assert torch.equal(student.right(rows), layer(rows[0].double()).argmax(1) == rows[1])


def test_trials_trained_together_equal_trials_trained_alone():
    protocol = linear.Protocol(3, 16, (0.1, 0.01))
    rows = clusters(0, 90, spread=1.0)

    def trial(seed: int, fraction: float) -> linear.Trial:
        return linear.Trial(rows[1], fraction, 16, 5, protocol, seed)

    together, alone = [trial(0, 1.0), trial(1, 0.5)], trial(1, 0.5)
    linear.fit(repeat(rows), together, protocol, CPU)
    linear.fit(repeat(rows), [alone], protocol, CPU)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(together[1].students, alone.students, strict=True))


def test_a_trial_learns_only_from_its_labelled_samples():
    """The other rows are NaN: learning from one of them would make the weights NaN."""
    protocol = linear.Protocol(2, 16, (0.1, 0.01))
    features, labels, numbers = clusters(0, 90, spread=1.0)
    trial = linear.Trial(labels, 0.5, 16, 5, protocol, seed=0)
    allowed = trial.students[0].allowed
    assert allowed.sum() == sum(round(0.5 * int((labels == c).sum())) for c in range(5))
    features[~allowed] = torch.nan
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))  # rows arrive in another order
    linear.fit(repeat((features[order], labels[order], numbers[order])), [trial], protocol, CPU)
    assert all(s.weight.isfinite().all() for s in (*trial.students, *trial.searching))
    searched = trial.searching[0].allowed
    assert not (searched & trial.held).any()
    assert ((searched | trial.held) == allowed).all()


def test_every_epoch_has_new_crops_of_every_sample(drawn_set: Path):
    """Features of a random network differ between epochs of a seed, and between seeds."""
    torch.manual_seed(0)
    encoder, shards, cpu = Encoder(Model("resnet18", width=8)), ShardSet.open(drawn_set), torch.device("cpu")
    crops = ViewSpec(size=32, views=1, crop="rrc", area=linear.RANDOM_CROP_AREA, jitter=0, grayscale=0, blur=0)

    def epochs(seed: int) -> list[probe.Rows]:
        passes = probe.passes(encoder, shards, "train", crops, cpu, seed)
        return [next(passes) for _ in range(3)]

    every = [*epochs(0), *epochs(1)]
    assert all(torch.equal(numbers, torch.arange(32)) for _, _, numbers in every)
    assert all(torch.equal(labels, every[0][1]) for _, labels, _ in every)
    for i, (features, _, _) in enumerate(every):
        for other, _, _ in every[:i]:
            assert not torch.isclose(features, other).all(1).any()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(every, epochs(0)))


def test_fractions_are_stratified_nested_and_refused_when_a_class_is_left_empty():
    labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 3)
    half, fifth = probe.labelled(labels, 0.5, seed=3), probe.labelled(labels, 0.2, seed=3)
    assert [int(half[labels == c].sum()) for c in range(3)] == [20, 5, 2]
    assert [int(fifth[labels == c].sum()) for c in range(3)] == [8, 2, 1]
    assert not (fifth & ~half).any()
    assert not torch.equal(half, probe.labelled(labels, 0.5, seed=4))
    assert probe.labelled(labels, 1.0, seed=0).all()
    with pytest.raises(InputError, match=r"--fractions 0\.1 .*3 training images.*allows 0\.167 to 1"):
        probe.labelled(labels, 0.1, seed=0)
    assert probe.labelled(labels, 0.167, seed=0)[50:].sum() == 1


def test_one_label_per_class_leaves_no_sample_to_choose_a_rate():
    with pytest.raises(InputError, match=r"--fractions 1 .*held out.* Use more labels.*--protocol synth-pair or lcr$"):
        linear.Trial(torch.arange(4), 1.0, 2, 4, linear.PROTOCOLS["cvsa"], seed=0)
    with pytest.raises(InputError, match=r"--fractions 0\.6 .*held out.* Use more labels"):
        linear.Trial(torch.arange(4), 0.6, 2, 4, linear.PROTOCOLS["cvsa"], seed=0)
    pairs = torch.arange(8) % 4
    with pytest.raises(InputError, match=r"--fractions 0\.5 .*held out.* Use a larger fraction"):
        linear.Trial(pairs, 0.5, 2, 4, linear.PROTOCOLS["cvsa"], seed=0)
    for name, fraction in (("cvsa", 1.0), ("synth-pair", 0.5), ("lcr", 0.5)):  # what it advises
        linear.Trial(pairs, fraction, 2, 4, linear.PROTOCOLS[name], seed=0)


def test_held_out_part_is_a_tenth_of_each_class():
    labels = torch.tensor([0] * 40 + [1] * 5 + [2])
    held = probe.held_out(labels, seed=3)
    assert [int(held[labels == c].sum()) for c in range(3)] == [4, 1, 0]


def test_intervals_equal_scipys():
    for values in ([0.61, 0.64, 0.6], [0.1, 0.4], [0.5, 0.55, 0.61, 0.5, 0.47, 0.52]):
        mean, half = intervals.mean_interval(values)
        low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
        assert half is not None
        assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert intervals.mean_interval([0.5]) == (0.5, None)
    assert (intervals.percent([0.643]), intervals.percent([0.64, 0.66])) == ("64.3", "65.0 ± 12.7")
