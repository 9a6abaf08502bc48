"""Runs of every family of networks: exact resumption, evaluations, another number of processes, heads of a run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from trainable import final, metrics, same, small, stop_at_step

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.engine import lifecycle
from fgtrain.evaluate import report
from fgtrain.networks.encoder import Encoder, Features
from fgtrain.networks.saved import load_encoder
from fgtrain.objectives import bases
from fgtrain.runs.checkpoint import Checkpoint
from fgtrain.runs.rundir import RunDir
from fgtrain.settings import common, methods
from fgtrain.settings.evaluations import Knn, Linear, Localization, Retrieval
from fgtrain.settings.pictures import Gradcam
from fgtrain.show import gradcam

RUNS: dict[str, tuple[str, str, dict]] = {
    "cvsa on a ViT": ("cvsa", "test_vit", {"freeze_stages": 1}),
    "moco on a ConvNeXt": ("moco", "test_convnext", {"optim": common.Optim("adamw", layer_decay=0.7, clip=0.5)}),
    "synth-pair on an EfficientNet": ("synth-pair", "test_efficientnet", {}),
    "byol on a ViT with drop path": ("byol", "test_vit2", {}),
    "cvsa-moco on an EfficientNet, two levels": ("cvsa-moco", "test_efficientnet", {}),
    "rotation on a ConvNeXt": ("rotation", "test_convnext", {}),
    "supervised on a ViT": ("supervised", "test_vit", {}),
    "looc on a ViT": ("looc", "test_vit", {}),
}


def config_of(name: str, shards: Path, out: Path, **machine) -> common.Config:
    method, backbone, more = RUNS[name]
    base = small(shards, out, method, **machine)
    more = {"model": common.Model(backbone, drop_path=0.2 * (backbone == "test_vit2")), **more}
    if "two levels" in name:
        more["align"] = methods.AlignSettings((3, 4), hidden=16, dim=8)
    return replace(base, **more)


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_bitwise_the_undisturbed_one(
    name: str, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    method = RUNS[name][0]
    lifecycle.train(config_of(name, drawn_set, tmp_path / "whole"), method)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 3)
        lifecycle.train(config_of(name, drawn_set, tmp_path / "halves"), method)
    lifecycle.train(config_of(name, drawn_set, tmp_path / "halves", resume=True), method)
    whole, halves = final(tmp_path / "whole"), final(tmp_path / "halves")
    assert same(whole["objective"], halves["objective"])
    assert same(whole["optimizer"], halves["optimizer"])
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_every_evaluation_reads_a_run_of_any_network(backbone: str, drawn_set: Path, tmp_path: Path, capsys):
    config = replace(small(drawn_set, tmp_path / "run", "byol"), model=common.Model(backbone), epochs=1)
    run = lifecycle.train(replace(config, views=ViewSpec(size=32)), "byol")
    encoder = load_encoder(Checkpoint.find(run))
    config = timm.get_pretrained_cfg(backbone)
    assert config is not None
    assert encoder.mean == tuple(config.mean)  # as the views of the run had
    for function, flags in (
        (report.run_knn, Knn(run, device="cpu", k=5, untrained=True)),
        (report.run_linear, Linear(run, device="cpu", epochs=1, cache=True)),
        (report.run_retrieval, Retrieval(run, device="cpu")),
        (report.run_localization, Localization(run, device="cpu")),
    ):
        function(flags)
    assert "Grad-CAM, since the pooled feature is not the mean of the last map" in " ".join(
        capsys.readouterr().out.split()
    )
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [line["evaluation"] for line in lines] == ["knn", "linear", "retrieval", "localization"]
    assert gradcam.draw_gradcam(Gradcam((run,), rows=2, device="cpu")).is_file()


def test_given_weights_are_evaluated_without_a_run(drawn_set: Path, tmp_path: Path, capsys):
    run = lifecycle.train(replace(small(drawn_set, tmp_path / "run", "byol"), epochs=1), "byol")
    of_run = report.run_knn(Knn(run, device="cpu", k=5))
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": load_encoder(Checkpoint.find(run)).state_dict()}, file)
    flags = Knn(weights=str(file), model=common.Model(width=8), shards=drawn_set, size=32, device="cpu", k=5)
    given = report.run_knn(flags)
    assert given["accuracy"] == of_run["accuracy"]
    assert "in 'state_dict'" in capsys.readouterr().out
    assert report.run_knn(replace(flags, untrained=True))["untrained"] != given["accuracy"]
    for wrong in (replace(flags, run=run), replace(flags, weights=None)):
        with pytest.raises(InputError, match="allowed: exactly one of them"):
            report.run_knn(wrong)
    with pytest.raises(InputError, match="does not fit the encoder"):
        report.run_knn(replace(flags, model=common.Model(width=16)))


def test_a_run_resumes_with_another_number_of_processes_and_says_so(
    drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at_step(patch, 3)
        run = lifecycle.train(small(drawn_set, tmp_path / "run", "byol"), "byol")
    last = RunDir(run).last_checkpoint
    assert last is not None
    state = torch.load(last / "state.pt", weights_only=True)
    torch.save({**state, "ranks": state["ranks"] * 2}, last / "state.pt")
    RunDir(run).note(processes=2)
    lifecycle.train(small(drawn_set, run, "byol", resume=True), "byol")
    assert "with 1 process instead of 2" in " ".join(capsys.readouterr().out.split())
    assert RunDir(run).facts["step"] == 8


def test_init_heads_starts_from_the_heads_of_another_run(drawn_set: Path, tmp_path: Path, capsys):
    """Every head of BYOL, with its batch-norm statistics and moving averages; CVSA on BYOL has them too, and more."""
    old = lifecycle.train(replace(small(drawn_set, tmp_path / "old", "byol"), epochs=1), "byol")
    theirs = final(old)["objective"]
    fresh = replace(small(drawn_set, tmp_path / "new", "byol"), seed=1, init=str(old))
    assert not same(dict(objectives.build(fresh, samples=32).state_dict()), dict(theirs))
    new = objectives.build(replace(fresh, init_heads=True), samples=32)
    assert same(dict(new.state_dict()), dict(theirs))
    assert new.encoder.origin.endswith(": projector, predictor, target_encoder, target_projector")
    cvsa = replace(small(drawn_set, tmp_path / "cvsa", "cvsa"), seed=1, init=str(old), init_heads=True)
    objective = objectives.build(cvsa, samples=32)
    own = objective.state_dict()
    assert all(torch.equal(own[f"base.{name}"], value) for name, value in theirs.items())
    assert objective.encoder.origin.endswith("none of these shapes: aligners")
    wider = replace(fresh, init_heads=True, byol=methods.ByolSettings(hidden=24, dim=8))
    part = objectives.build(wider, samples=32)
    assert "target_encoder; random" in part.encoder.origin
    kept = part.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in theirs.items() if "encoder" in name)
    run = lifecycle.train(replace(cvsa, epochs=1), "cvsa")
    assert "heads of" in (run / "log.txt").read_text()
    machine = replace(cvsa.machine, resume=True)
    shutil.rmtree(old)  # a resumed run has its own copy
    lifecycle.train(replace(cvsa, epochs=1, machine=machine), "cvsa")


def test_init_heads_needs_a_run_with_such_heads(drawn_set: Path, tmp_path: Path):
    config = small(drawn_set, tmp_path / "new", "simclr")
    with pytest.raises(InputError, match=r"--init-heads is set; allowed: only with --init RUN"):
        replace(config, init_heads=True)
    file = tmp_path / "weights.pth"
    torch.save(Encoder(config.model).state_dict(), file)
    with pytest.raises(InputError, match=r"--init-heads takes the heads of a run, but --init is .*weights.pth"):
        objectives.build(replace(config, init=str(file), init_heads=True), samples=32)
    run = lifecycle.train(replace(small(drawn_set, tmp_path / "byol", "byol"), epochs=1), "byol")
    wider = replace(config, init=str(run), init_heads=True, simclr=methods.SimclrSettings(hidden=24, dim=8))
    with pytest.raises(InputError, match=r"no part of this method \(projector\) has the names and shapes.*predictor"):
        objectives.build(wider, samples=32)


def test_moco_normalises_parts_of_a_batch_and_returns_its_keys_in_order():
    torch.manual_seed(0)
    config = methods.MocoConfig(
        model=common.Model(width=8),
        views=ViewSpec(size=32),
        moco=methods.MocoSettings(dim=8, norm_splits=2),
        data=common.Data(batch_size=8),
    )
    objective = bases.Moco(config, samples=64).train()
    view = torch.randn(8, 3, 32, 32)
    features, _ = bases.in_parts(objective.encoder, objective.projector, view, 2)
    halves = [objective.encoder(half).pooled for half in view.split(4)]
    assert torch.equal(features.pooled, torch.cat(halves))
    assert not torch.allclose(features.pooled, objective.encoder(view).pooled)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(config.seed))
    target = objective.target_encoder
    with torch.no_grad():
        expected = torch.cat([target(half).pooled for half in view[order].split(4)])[order.argsort()]
        _, key = objective.key(view, 0.0)
        head = objective.target_projector(expected)
    torch.testing.assert_close(key, head / head.norm(dim=1, keepdim=True))
    auto = bases.Moco(replace(config, moco=methods.MocoSettings(dim=8)), samples=64)
    assert [auto.splits(n) for n in (8, 16, 64, 256, 1024)] == [1, 1, 4, 8, 8]
    assert auto.eval().splits(256) == 1


def test_no_part_of_a_batch_is_a_single_sample():
    """Batch norm cannot train on one, and a sample alone is normalised by itself."""
    sizes = []

    def encoder(part: torch.Tensor) -> Features:
        sizes.append(len(part))
        return Features({}, part.flatten(1))

    for samples in range(4, 60):
        for splits in range(1, samples // 2 + 1):
            sizes.clear()
            bases.in_parts(encoder, torch.nn.Identity(), torch.zeros(samples, 3, 1, 1), splits)  # pyright: ignore
            assert (sum(sizes), len(sizes)) == (samples, splits)
            assert min(sizes) >= 2
