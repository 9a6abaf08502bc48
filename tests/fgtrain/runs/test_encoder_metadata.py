"""Encoder files whose metadata is missing or wrong."""

import json
import re
from pathlib import Path

import pytest
import torch
from trainable import small

from fgdata.errors import InputError
from fgtrain.engine import lifecycle
from fgtrain.networks.saved import load_encoder
from fgtrain.runs.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def undisturbed(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("runs") / "whole"), "cvsa")


def test_an_encoder_file_with_missing_or_wrong_metadata_is_explained(undisturbed: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(Checkpoint.find(undisturbed).file)
    save_file(weights, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"metadata has no key fgtrain[\s\S]*--init"):
        Checkpoint.find(tmp_path / "bare.safetensors")
    about = {"backbone": "resnet50", "width": "8", "stem": "imagenet", "size": "32", "step": "1"}
    save_file(weights, tmp_path / "other.safetensors", metadata={"fgtrain": json.dumps(about)})
    with pytest.raises(InputError, match="does not contain the network"):
        load_encoder(Checkpoint.find(tmp_path / "other.safetensors"))
    save_file(weights, tmp_path / "less.safetensors", metadata={"fgtrain": json.dumps({"width": "8"})})
    with pytest.raises(InputError, match="'backbone' is missing"):
        Checkpoint.find(tmp_path / "less.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        "[" * 100_000,
        "[]",
        '{"size": ' + "9" * 4301 + "}",
        '{"backbone": ["resnet18"], "width": 8, "stem": "small", "size": 32, "step": 1}',
        '{"backbone": "resnet18", "width": [8], "stem": "small", "size": 32, "step": 1}',
        '{"backbone": "resnet18", "width": 1e999, "stem": "small", "size": 32, "step": 1}',
        '{"backbone": "unknown", "width": 8, "stem": "small", "size": 32, "step": 1}',
    ],
    ids=["deep", "list", "digits", "backbone-list", "width-list", "infinite", "unknown"],
)
def test_encoder_metadata_of_another_shape_is_refused_by_name(metadata: str, tmp_path: Path):
    from safetensors.torch import save_file

    file = tmp_path / "encoder.safetensors"
    save_file({"conv1.weight": torch.zeros(8, 3, 3, 3)}, file, metadata={"fgtrain": metadata})
    with pytest.raises(InputError, match=re.escape(str(file))):
        load_encoder(Checkpoint.find(file))
