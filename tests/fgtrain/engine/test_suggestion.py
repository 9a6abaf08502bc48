"""The command that a finished run suggests works on its shard set."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fgdata.cli import main
from fgtrain.engine.lifecycle import suggest_evaluation


@pytest.mark.parametrize(
    ("classes", "splits", "words"),
    [
        (("a", "b"), {"train": 50, "test": 5}, "fgtrain eval knn runs/x --untrained"),
        (("a", "b"), {"train": 7, "test": 5}, "fgtrain eval knn runs/x --untrained --k 7"),
        (("a", "b"), {"test": 5}, "fgtrain eval retrieval runs/x --untrained"),
        (("a", "b"), {"train": 50}, "no test split.*fgtrain eval knn runs/x --shards FOLDER"),
        (("unlabelled",), {"train": 50}, "no classes.*fgtrain export runs/x encoder.safetensors"),
    ],
)
def test_the_suggested_evaluation_fits_the_set(classes: Any, splits: Any, words: str):
    shards: Any = SimpleNamespace(classes=classes, splits=splits)
    assert re.search(f"{words}$", suggest_evaluation(shards, "runs/x"))


@pytest.mark.parametrize(("count", "flag"), [(300, ""), (100, " --data.batch-size 64"), (3, " --data.batch-size 2")])
def test_a_build_suggests_a_batch_that_fits(count: int, flag: str, tmp_path: Path, monkeypatch, capsys):
    manifest = {
        "dataset": {"classes": ["a", "b"]},
        "splits": {"train": {"samples": count, "shards": []}},
        "images": {"max_side": None},
        "skipped": [],
        "boxes_clipped": 0,
        "reencoded": 0,
        "fallbacks": {},
    }
    done = SimpleNamespace(manifest=manifest, was_complete=False, written=1, seconds=1.0)
    monkeypatch.setattr("fgdata.building.build.build", lambda *_, **__: done)
    monkeypatch.chdir(tmp_path)
    assert main(["build-shards", "--dataset", "drawn"]) == 0
    assert capsys.readouterr().out.endswith(f"fgtrain run cvsa --data.shards shards/drawn{flag}\n")
