"""`fgtrain:WEIGHTS`: the features that evaluations use, and names that cannot be used."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from trainable import small

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain.engine.lifecycle import train
from fgtrain.evaluate.probe import embed
from fgtrain.features.frozen import encoder
from fgtrain.networks.saved import load_encoder
from fgtrain.runs.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def run(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "byol"
    train(small(drawn_set, out, "byol"), "byol")
    return out


def test_features_are_those_of_the_evaluations(run: Path, drawn_set: Path):
    opened, shards = encoder(str(run)), ShardSet.open(drawn_set)
    features = np.concatenate(list(opened.embed(shards, "train")))
    network = load_encoder(Checkpoint.find(run))
    expected, _, _ = embed(network, shards, "train", network.evaluation_view(32), torch.device("cpu"))
    # Batches of 64 and of 128 may be summed in another order.
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert opened.SETTINGS["size"] == 32
    assert opened.SETTINGS["step"] == 8
    assert len(opened.SETTINGS["sha256"]) == 64
    again = np.concatenate(list(encoder(f"{run},size=32,device=cpu").embed(shards, "train")))
    np.testing.assert_array_equal(features, again)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("missing", "fgtrain:missing: "),
        ("RUN,width=3", "'width' is not a setting; allowed: backbone=, size="),
        ("RUN,size=1", "size is '1'; allowed: 32 to 2048 pixels"),
        ("RUN,device=tpu9", "--device is tpu9; allowed: auto, cpu"),
        ("RUN/encoder.pth", "--encoder fgtrain:"),
    ],
)
def test_names_that_cannot_be_used(run: Path, tmp_path: Path, words: str, text: str):
    target = tmp_path / "run"
    shutil.copytree(run, target)
    (target / "encoder.pth").write_bytes(b"x")
    with pytest.raises(InputError) as fault:
        encoder(words.replace("RUN", str(target)))
    assert text in str(fault.value)
