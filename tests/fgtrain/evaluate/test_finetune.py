"""Fine-tuning: the held-out part, the training part, and the choice of learning rate and weight decay."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, label
from fgtrain.evaluate import finetune
from fgtrain.evaluate.finetune import Fit
from fgtrain.networks.encoder import Encoder
from fgtrain.settings.common import Model
from fgtrain.settings.evaluations import Finetune

TUNING = Finetune(Path(), epochs=1, batch_size=8, rates=(0.1, 0.01), decays=(0.0, 1e-4), trials=2)
CPU = torch.device("cpu")


def tuning(**settings: Any) -> Finetune:
    return Finetune(Path(), **settings)


def small() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Model("resnet18", width=8))


def test_tuning_is_the_published_one():
    """CVSA, appendix A; three trials are ours."""
    published = asdict(tuning())
    assert {name: published[name] for name in ("epochs", "batch_size", "rates", "decays", "trials")} == {
        "epochs": 50,
        "batch_size": 16,
        "rates": (0.1, 0.05, 0.01, 0.005, 0.001),
        "decays": (5e-4, 1e-4),
        "trials": 3,
    }


def test_part_of_a_split_renumbers_its_samples(drawn_set: Path):
    whole = ShardSet.open(drawn_set)
    part = finetune.Part(whole, "train", torch.tensor([5, 2, 30]))
    reader = part.split("train")
    assert len(reader) == 3
    assert reader.read(2)["jpg"] == whole.split("train").read(30)["jpg"]
    assert len(part.split("test")) == len(whole.split("test"))
    first = {"train": 0, "test": len(whole.split("train"))}
    assert list(whole.splits) == list(first)  # maps.h5 has the splits in this order
    assert [part.map_row("train", number) for number in range(3)] == [5, 2, 30]
    assert part.map_row("test", 1) == whole.map_row("test", 1) == first["test"] + 1


def test_the_pair_is_chosen_on_train_and_every_fit_finishes_once(drawn_set: Path):
    fits = []

    def finish(fit: Fit, _train) -> float:
        fits.append(fit)
        return {(0.1, 1e-4): 0.9, (0.01, 0.0): 0.9}.get((fit.rate, fit.decay), 0.1)

    best, scores = finetune.tune(small, ShardSet.open(drawn_set), 32, CPU, replace(TUNING, seed=7), finish)
    assert [(f.rate, f.decay, f.seed, f.search) for f in fits] == [
        (0.1, 0.0, 7, True), (0.1, 1e-4, 7, True), (0.01, 0.0, 7, True), (0.01, 1e-4, 7, True),
        (0.1, 1e-4, 7, False), (0.1, 1e-4, 8, False),
    ]  # fmt: skip
    assert (best.rate, best.decay, scores) == (0.1, 1e-4, [0.9, 0.9])


def test_search_and_trials_use_the_right_samples(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    shards = ShardSet.open(drawn_set)
    learned, scored = [], []

    def files(reader) -> list[bytes]:
        return [reader.read(i)["jpg"] for i in range(len(reader))]

    def learn(_encoder, data: ShardSet, *_) -> torch.nn.Module:
        learned.append(files(data.split("train")))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(finetune, "fine_tune", learn)
    monkeypatch.setattr(finetune, "accuracy", lambda _n, data, s, *_: scored.append((s, files(data.split(s)))) or 0.5)
    finetune.tune(
        small,
        shards,
        32,
        CPU,
        tuning(epochs=1, batch_size=8, rates=(0.1, 0.01), decays=(0.0,), trials=1),
        lambda _fit, train: train(),
    )
    every = files(shards.split("train"))
    assert [split for split, _ in scored] == ["train", "train", "test"]
    assert len(scored[0][1]) == 4  # a tenth of 8 of each of 4 classes, at least one
    assert sorted(learned[0] + scored[0][1]) == sorted(every)
    assert learned[2] == every
    assert scored[2][1] == files(shards.split("test"))


def test_a_fraction_of_the_labels_is_of_every_class(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    """Half of 8 images of each of 4 classes; a tenth of these, at least one, is held out; each trial draws its own."""
    shards, learned, scored = ShardSet.open(drawn_set), [], []

    def rows(reader) -> list[tuple[int, bytes]]:
        return [(label(reader.read(i)), reader.read(i)["jpg"]) for i in range(len(reader))]

    def learn(_encoder, data: ShardSet, *_) -> torch.nn.Module:
        learned.append(rows(data.split("train")))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(finetune, "fine_tune", learn)
    monkeypatch.setattr(finetune, "accuracy", lambda _n, data, s, *_: scored.append(rows(data.split(s))) or 0.5)
    halves = tuning(epochs=1, batch_size=8, rates=(0.1, 0.01), decays=(0.0,), trials=2, fractions=(0.5,))
    fits: list[Fit] = []
    finetune.tune(small, shards, 32, CPU, halves, lambda fit, train: fits.append(fit) or train())
    counts = [[[c for c, _ in each].count(c) for c in range(4)] for each in learned]
    assert counts == [[3] * 4, [3] * 4, [4] * 4, [4] * 4]
    assert [len(each) for each in scored] == [4, 4, 16, 16]
    assert sorted(learned[0] + scored[0]) == sorted(learned[2]), "the first trial has the images of the search"
    assert sorted(learned[2]) != sorted(learned[3])
    assert {fit.fraction for fit in fits} == {0.5}
    with pytest.raises(InputError, match=r"--fractions 0\.01 leaves a class of 8 training images without"):
        finetune.tune(small, shards, 32, CPU, replace(halves, fractions=(0.01,)), lambda _fit, train: train())


def test_fine_tuning_learns_and_depends_only_on_its_seed(drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    fit = Fit(0.03, 0.0, 3, search=False)
    one, two = (finetune.fine_tune(small(), shards, 32, CPU, fit, tuning(epochs=12, batch_size=8)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one.encoder.network.conv1.weight, small().network.conv1.weight)  # pyright: ignore
    truth = [label(shards.split("train").read(i)) for i in range(32)]
    assert finetune.accuracy(one, shards, "train", 32, CPU) > max(truth.count(c) for c in range(4)) / 32


def test_stochastic_depth_is_decided_by_the_seed_of_the_fit(drawn_set: Path):
    """Whatever was drawn before, as after the fits that a stopped evaluation does not repeat; and nothing else is."""
    shards, weights = ShardSet.open(drawn_set), []
    for drawn, seed in ((0, 3), (1, 3), (1, 2**64 - 1)):
        torch.manual_seed(0)
        encoder = Encoder(Model("test_vit2", drop_path=0.5))
        torch.manual_seed(drawn)
        before = torch.get_rng_state()
        fit = Fit(0.1, 0.0, seed, search=False)
        network = finetune.fine_tune(encoder, shards, 32, CPU, fit, tuning(epochs=1, batch_size=8))
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([p.flatten() for p in network.encoder.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_invalid_settings_are_refused(drawn_set: Path):
    wrong: dict[str, dict[str, Any]] = {
        "--epochs is 0": {"epochs": 0},
        "--batch-size is 1; allowed: 2 or more": {"batch_size": 1},
        "--rates is empty": {"rates": ()},
        "--rates is 0.1 -1": {"rates": (0.1, -1.0)},
        "--trials is 0": {"trials": 0},
    }
    for flag, settings in wrong.items():
        with pytest.raises(InputError, match=flag):
            tuning(**settings)
    with pytest.raises(InputError, match="--batch-size is 30; allowed: 2 to 28, the number of training images"):
        finetune.tune(small, ShardSet.open(drawn_set), 32, CPU, tuning(batch_size=30), lambda _fit, train: train())


@pytest.mark.parametrize(
    ("rates", "message"),
    [((0.1,), "has 1 image to train on; it needs"), ((0.1, 0.2), "0 images to train on when 1 of 1 are held out")],
)
def test_a_single_labelled_image_is_not_answered_with_a_range_that_is_empty(
    rates: tuple[float, ...], message: str, drawn_set: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finetune, "labelled", lambda labels, *_: torch.arange(len(labels)) == 0)
    monkeypatch.setattr(finetune, "held_out", lambda labels, _: torch.ones(len(labels), dtype=torch.bool))
    with pytest.raises(InputError, match=message):
        finetune.tune(small, ShardSet.open(drawn_set), 32, CPU, tuning(rates=rates, decays=(0.0,)), lambda *_: 0.0)


def test_a_diverged_fit_is_never_chosen_and_never_a_result(drawn_set: Path):
    scores = {}

    def finish(fit: Fit, train) -> float:
        return scores.setdefault((fit.rate, fit.search), train())

    diverging = tuning(epochs=2, batch_size=8, rates=(1e30, 1e20), decays=(0.0,), trials=1)
    with pytest.raises(InputError, match=r"diverged: at learning rate 1e\+30 and weight decay 0, seed 0"):
        finetune.tune(small, ShardSet.open(drawn_set), 32, CPU, diverging, finish)
    assert scores == {(1e30, True): 0.0, (1e20, True): 0.0}
