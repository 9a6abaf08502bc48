"""A run whose batches come from a separate process: the same weights, also after a stop signal to both processes."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from trainable import final, metrics, same, small

from fgdata.views import ViewSpec
from fgtrain.engine import lifecycle
from fgtrain.engine.trainer import Trainer
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.common import Config, Model, OwnBoxes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process for the loader needs Linux")


def config(shards: Path, out: Path, process: bool, **machine) -> Config:
    """Three epochs of four steps; boxes from the network's own maps after the first two."""
    base = small(shards, out, "contrastive-crop-own", **machine)
    views = ViewSpec(size=32, crop="contrastive", crop_box="given")
    settings = replace(base, views=views, model=Model(width=8, stem="small"), epochs=3)
    settings = replace(settings, own_boxes=OwnBoxes(first=1, every=1, threshold=0.5))
    return replace(settings, data=replace(settings.data, process=process))


@pytest.mark.slow
def test_the_weights_are_those_without_it_after_a_signal_to_the_group_and_a_resumption(drawn_set: Path, tmp_path: Path):
    whole = lifecycle.train(config(drawn_set, tmp_path / "whole", False), "run")
    step = Trainer.train_step

    def step_and_send(self, batch):
        step(self, batch)
        if self.step == 6:
            os.kill(self.loader._maker._child.pid, signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_and_send)
        lifecycle.train(config(drawn_set, tmp_path / "parts", True), "run")
    assert (RunDir(tmp_path / "parts").facts["status"], final(tmp_path / "parts")["step"]) == ("stopped", 6)
    parts = lifecycle.train(config(drawn_set, tmp_path / "parts", True, resume=True), "run")
    assert same(final(whole), final(parts))
    assert metrics(whole) == metrics(parts)
