"""Every evaluation uses the feature that the encoder describes: with an attention branch, not the pooled one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fgdata.shards.reader import ShardSet
from fgtrain.evaluate import finetune, knn, probe, report
from fgtrain.features.frozen import Frozen
from fgtrain.networks.encoder import Encoder
from fgtrain.settings.common import Model

SIZE, CPU = 96, torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Model(width=8, attend=4)).eval()


@torch.no_grad()
def by_hand(encoder: Encoder, shards: ShardSet, split: str = "test") -> tuple[Tensor, Tensor, Tensor]:
    """Attended features: the mean over positions of A times the attention, scaled to [0, 1] in each image, at length 1;
    pooled features, and labels."""
    rows = []
    for x, batch in probe.images(shards, split, encoder.evaluation_view(SIZE), CPU):
        features = encoder(x)
        last = features.maps[4]
        for maps, a, pooled, label in zip(last, encoder.attend(last), features.pooled, batch["label"]):  # pyright: ignore
            f = (maps * (a - a.min()) / (a.max() - a.min())).mean((1, 2))
            rows.append((f / f.norm(), pooled, label))
    attended, pooled, labels = (torch.stack(column) for column in zip(*rows))
    return attended, pooled, labels


def fine_tuned(encoder: Encoder, shards: ShardSet) -> Tensor:
    """What fine-tuning gives to its linear layer."""
    network = finetune.Network(encoder, classes=4, seed=0).eval()
    network.head = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat([network(x) for x, _ in probe.images(shards, "test", encoder.evaluation_view(SIZE), CPU)])


def of_a_core_set(encoder: Encoder, shards: ShardSet) -> Tensor:
    source: Any = SimpleNamespace(encoder=encoder, size=SIZE, settings={})
    return torch.from_numpy(np.concatenate(list(Frozen(source, CPU).embed(shards, "test"))))


READERS: dict[str, Callable[[Encoder, ShardSet], Tensor]] = {
    "commands": lambda e, s: report.embed(SimpleNamespace(shards=s, size=SIZE, device=CPU), e, "test")[0],  # pyright: ignore
    "linear, fresh crops": lambda e, s: next(probe.passes(e, s, "test", e.evaluation_view(SIZE), CPU, seed=0))[0],
    "finetune": fine_tuned,
    "coreset": of_a_core_set,
}


@torch.no_grad()
@pytest.mark.parametrize("reader", READERS)
def test_features_are_the_described_ones(reader: str, encoder: Encoder, drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    attended, pooled, _ = by_hand(encoder, shards)
    found = READERS[reader](encoder, shards)
    torch.testing.assert_close(found, attended, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    assert (found - pooled).abs().max() > 0.1


def test_knn_compares_the_described_features(encoder: Encoder, drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    train, test = (by_hand(encoder, shards, split) for split in ("train", "test"))
    attended, pooled = (
        knn.knn_predict(train[column], train[2], test[column], 5, 0.07, 4) == test[2] for column in (0, 1)
    )
    found = knn.knn(encoder, shards, SIZE, CPU, 5, 0.07)
    assert torch.equal(found, attended)
    assert not torch.equal(found, pooled)
