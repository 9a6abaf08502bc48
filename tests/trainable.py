"""Settings of runs that are small enough for tests, and helpers to read and compare their results."""

import dataclasses
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paths import ROOT

from fgdata.views import ViewSpec
from fgtrain.engine import trainer
from fgtrain.engine.trainer import Trainer
from fgtrain.runs.rundir import RunDir
from fgtrain.runs.state import load_state
from fgtrain.settings import common, comparisons, distillation, methods, multicrop, papn, recipes

RATES = ("images_per_second", "data_wait")


def small(shards: Path, out: Path, name: str = "cvsa", **machine) -> common.Config:
    """Four batches of 8 at 32 px per epoch, two epochs, a network of width 8."""
    base = recipes.RECIPES[name]()
    local = replace(base.views.local, count=2, size=32) if base.views.local.count else base.views.local
    backgrounds = (ROOT / "shards" / "tiny",) if "backgrounds" in base.needs else ()
    fields = {
        "data": common.Data(shards, batch_size=8, detector="gt", backgrounds=backgrounds),
        "views": ViewSpec(size=32, views=base.view_count, crop=base.views.crop, local=local),
        "model": common.Model(width=8),
        "optim": replace(base.optim, warmup_epochs=0.5),
        "byol": methods.ByolSettings(hidden=16, dim=8),
        "moco": replace(getattr(base, "moco", methods.MocoSettings()), dim=8),
        "simsiam": methods.SimsiamSettings(hidden=16, dim=8, bottleneck=8),
        "simclr": methods.SimclrSettings(hidden=16, dim=8),
        "attend": replace(getattr(base, "attend", comparisons.AttendSettings()), filters=4),
        "lewel": comparisons.LewelSettings(hidden=16, dim=8),
        "relative": comparisons.RelativeSettings(hidden=16),
        "dino": multicrop.DinoSettings(hidden=16, bottleneck=8, dim=24),
        "papn": papn.PapnSettings(dim=8),
        "distill": distillation.DistillSettings(size=48),
        "align": methods.AlignSettings(hidden=16, dim=8),
        "pair": methods.PairSettings(bank=24, kappa=0.9),
        "reconstruct": methods.ReconstructSettings(width=2, epochs=1, batch_size=8),
        "epochs": 2,
        "machine": common.Machine(out=out, device="cpu", threads=2, log_every=3, checkpoint_every=1, **machine),
    }
    return replace(base, **{k: v for k, v in fields.items() if k in {f.name for f in dataclasses.fields(base)}})


def joined(shards: Path, out: Path, name: str, **machine) -> common.Config:
    """Settings whose views do not depend on other samples, so that two half batches equal the whole batch."""
    config = small(shards, out, name, **machine)
    return replace(
        config, views=ViewSpec(size=32, local=config.views.local), sync_norm=False, optim=replace(config.optim, lr=1.0)
    )


def metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without the rates, which differ from run to run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in RATES} for line in lines]


def final(run: Path) -> dict:
    """state.pt of the last checkpoint."""
    last = RunDir(run).last_checkpoint
    assert last is not None
    return load_state(last)


def same(a, b) -> bool:
    """Whether two states are equal, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_training(a: Path, b: Path) -> None:
    """Both runs have the same metrics and weights, up to float32 sums in another order over eight to twelve steps."""
    ours, theirs = (
        [{k: v for k, v in line.items() if k != "feature_std"} for line in metrics(run)]  # it is a spread in a batch
        for run in (a, b)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    one, other = final(a)["objective"], final(b)["objective"]
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)


def fix_batch_norm(module: torch.nn.Module) -> None:
    """Puts batch norm into evaluation mode: a sample's output no longer depends on its batch."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()


def without_batch_statistics(patch: pytest.MonkeyPatch) -> None:
    """Batch norm in evaluation mode: with two processes its statistics would be those of half a batch."""
    join = Trainer.join

    def fix_and_join(self):
        fix_batch_norm(self.objective)
        join(self)

    patch.setattr(Trainer, "join", fix_and_join)


def stop_at_step(patch: pytest.MonkeyPatch, stop_at: int, caught: signal.Signals = signal.SIGUSR1) -> None:
    """Runs get the signal `caught` during step `stop_at`."""
    step = Trainer.train_step

    def signalled(self, batch):
        step(self, batch)
        if self.step == stop_at:
            os.kill(os.getpid(), caught)

    patch.setattr(Trainer, "train_step", signalled)


def allow_half_precision(patch: pytest.MonkeyPatch) -> None:
    """fp16 on a CPU: refused because it is slow, but exact enough to test the loss scale."""
    patch.setattr(trainer, "pick_precision", lambda name, _: name)
