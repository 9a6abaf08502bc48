"""The decoder, its warm-up, runs of synthesized pairs that resume exactly, and the picture of pairs."""

import json
import math
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet, meta
from fgdata.views import ViewSpec, load
from fgtrain import objectives
from fgtrain.engine import lifecycle
from fgtrain.engine.trainer import Trainer
from fgtrain.objectives import decoder
from fgtrain.objectives.synth_pair import SynthPair
from fgtrain.runs.rundir import RunDir
from fgtrain.runs.state import load_state
from fgtrain.settings import common, methods, recipes
from fgtrain.settings.pictures import Pairs
from fgtrain.show import pairs
from fgtrain.show.pairs import draw_pairs


def small(shards: Path | None = None, out: Path | None = None, base="moco", **machine) -> methods.SynthPairConfig:
    """A network of width 8 at 32 px. On the drawn set: two epochs of four batches after two of warm-up."""
    return methods.SynthPairConfig(
        base=base,
        model=common.Model(width=8),
        views=ViewSpec(size=32),
        data=common.Data(shards, batch_size=8),
        moco=methods.MocoSettings(dim=8),
        simsiam=methods.SimsiamSettings(hidden=16, dim=8, bottleneck=4),
        pair=methods.PairSettings(bank=20),
        reconstruct=methods.ReconstructSettings(width=4, depth=1, epochs=2, lr=1e-2, batch_size=8),
        epochs=2,
        machine=common.Machine(out=out, device="cpu", threads=2, log_every=3, checkpoint_every=1, **machine),
    )


def test_published_decoder_has_the_size_of_its_encoder():
    row = recipes.synth_pair_cub_r50()
    assert (row.data.batch_size, row.epochs, row.init, row.pair.bank, row.reconstruct.epochs) == (
        *(128, 100, "imagenet", 5632, 200),
    )
    assert row.optim.lr * row.data.batch_size / 256 == pytest.approx(0.03)
    with torch.device("meta"):
        full = decoder.Decoder(2048, 224, row.reconstruct.width, row.reconstruct.depth)
        assert full(torch.empty(2, 2048)).shape == (2, 3, 224, 224)
    assert 24e6 < sum(p.numel() for p in full.parameters()) < 28e6


def test_decoder_file_of_another_kind_or_shape_is_refused(tmp_path: Path):
    file, ours = tmp_path / "it's.safetensors", decoder.Decoder(64, 32, 4, 1)
    ours.save(file)
    again = decoder.Decoder(64, 32, 4, 1)
    again.load(file)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters()))
    with pytest.raises(InputError, match=r"width: 4 in the file, 8 here[\s\S]*depth: 1 in the file, 0 here"):
        decoder.Decoder(64, 32, 8, 0).check(file)
    with pytest.raises(InputError, match=r"encoder's features: 64 in the file, 128 here"):
        objectives.build(replace(small(), model=common.Model(width=16), decoder=file), samples=40)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("other", "text"):
        with pytest.raises(InputError, match="not a decoder of fgtrain"):
            ours.check(tmp_path / f"{name}.safetensors")
    missing = replace(small(), decoder=tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        objectives.build(missing, samples=40)
    objectives.build(
        replace(missing, machine=common.Machine(resume=True)), samples=40
    )  # a resumed run has its own copy


def final_state(run: Path) -> dict:
    last = RunDir(run).last_checkpoint
    assert last is not None
    return load_state(last)


def logged_metrics(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in records]


@pytest.fixture(scope="module")
def whole(drawn_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lifecycle.train(small(drawn_set, tmp_path_factory.mktemp("pairs") / "whole"), "synth-pair")


def differing_keys(a: dict, b: dict) -> list[str]:
    assert a.keys() == b.keys()
    return [k for k in a if not torch.equal(a[k], b[k])]


@pytest.mark.parametrize("base", ["moco", "simsiam"])
def test_resumed_run_equals_an_uninterrupted_run_bitwise(
    base: str, drawn_set: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if base == "simsiam":
        whole = lifecycle.train(small(drawn_set, tmp_path / "whole", base), "synth-pair")
    step = Trainer.train_step

    def step_and_stop(self, given):
        step(self, given)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_and_stop)
        run = lifecycle.train(small(drawn_set, tmp_path / "parts", base), "synth-pair")
    assert final_state(run)["step"] == 5
    torch.manual_seed(99)  # the checkpoint determines the noise after a resume
    lifecycle.train(small(drawn_set, run, base, resume=True), "synth-pair")
    assert logged_metrics(run) == logged_metrics(whole)
    assert differing_keys(final_state(run)["objective"], final_state(whole)["objective"]) == []
    keys = {"contrast", "reconstruct", "pair", "selected", "eta_zero", "noise"}
    assert all(keys <= line.keys() for line in logged_metrics(run))


def test_the_warm_up_has_no_draws_of_its_own_and_allows_settings_by_view(drawn_set: Path, tmp_path: Path):
    """So that one in two parts is the same; the network has stochastic depth, and every view its own settings."""
    views = ViewSpec(size=32, area=((0.2, 1.0), (0.5, 1.0)), blur=(1.0, 0.1), solarize=(0.0, 0.2), strength=(1.0, 0.5))
    settings = replace(small(drawn_set), model=common.Model("test_vit2", drop_path=0.5), views=views)
    decoders = []
    for seed in (0, 1):
        objective, out = objectives.build(settings, samples=32).train(), tmp_path / f"{seed}"
        out.mkdir()
        torch.manual_seed(seed)
        device = torch.device("cpu")
        objective.prepare(RunDir(out), ShardSet.open(drawn_set), device, lambda _: None, lambda: False)
        decoders.append(load_file(out / decoder.FILE))
    assert differing_keys(*decoders) == []


class Stopped(Exception):
    pass


def test_interrupted_warm_up_resumes_and_gives_the_same_decoder(
    drawn_set: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert not (whole / decoder.UNFINISHED).exists()
    settings = small(drawn_set, tmp_path / "run")
    settings = replace(settings, reconstruct=replace(settings.reconstruct, epochs=3))
    shards, run, device = ShardSet.open(drawn_set), RunDir(tmp_path), torch.device("cpu")
    lines: list[str] = []
    monkeypatch.setattr(decoder, "SECONDS_BETWEEN_LINES", 0.0)

    def prepare(stop: str = "never") -> tuple[SynthPair, list[str]]:
        objective, output = objectives.build(settings, samples=32).train(), []

        def say(line: str) -> None:
            output.append(line)
            lines.append(line)
            if stop in line:
                raise Stopped

        objective.prepare(run, shards, device, say, lambda: False)
        return objective, output

    before = objectives.build(settings, samples=32).state_dict()
    uninterrupted, output = prepare()
    errors = [
        [float(figure) for figure in re.findall(r"(?:reconstruct|mean image) ([\d.]+)", line)] for line in output[1:]
    ]
    assert errors[2][0] < errors[0][0]
    assert errors[2][1] == pytest.approx(errors[0][1], rel=0.2)  # the same images, in other batches
    changed = differing_keys(uninterrupted.state_dict(), before)
    assert changed == [k for k in before if k.startswith("decoder.")]  # the encoder and its statistics are unchanged
    expected = load_file(tmp_path / decoder.FILE)
    assert (
        differing_keys(
            {f"decoder.{k}": v for k, v in expected.items()}, {k: uninterrupted.state_dict()[k] for k in changed}
        )
        == []
    )

    (tmp_path / decoder.FILE).unlink()
    monkeypatch.setattr(decoder, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(decoder, "SECONDS_BETWEEN_LINES", math.inf)
    lines.clear()
    with pytest.raises(Stopped):
        prepare("epoch 3/3")
    assert [line[:18] for line in lines] == ["Decoder warm-up: 3", "warm-up epoch 3/3 "]
    assert sorted(p.name for p in tmp_path.iterdir()) == [decoder.UNFINISHED]
    _, output = prepare()
    assert "resumed after epoch 2" in output[0]
    assert len(output) == 2
    assert differing_keys(load_file(tmp_path / decoder.FILE), expected) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [decoder.FILE]
    reused, output = prepare()  # stopped between the warm-up and the first checkpoint
    assert output == []
    assert differing_keys(reused.state_dict(), uninterrupted.state_dict()) == []

    settings, run = replace(settings, decoder=tmp_path / decoder.FILE), RunDir(tmp_path / "other")
    run.path.mkdir()
    reused, output = prepare()
    assert output == []
    assert differing_keys(reused.state_dict(), uninterrupted.state_dict()) == []
    assert differing_keys(load_file(run.path / decoder.FILE), expected) == []


@pytest.mark.parametrize("batch", [2, 4, 7, 8])
def test_signal_stops_the_warm_up_and_it_resumes_after_that_step(
    drawn_set: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
):
    """An epoch has four batches, the warm-up eight: stop within an epoch, between epochs and at the last step."""
    losses = []
    original = decoder.F.mse_loss

    def mse_loss(*images):
        losses.append(None)
        if len(losses) == batch:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(*images)

    with monkeypatch.context() as patch:
        patch.setattr(decoder.F, "mse_loss", mse_loss)
        run = lifecycle.train(small(drawn_set, tmp_path / "run"), "synth-pair")
    assert len(losses) == batch
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert (run / decoder.UNFINISHED).exists() == (batch < 8)
    assert (run / decoder.FILE).exists() == (batch == 8)
    assert not (run / "checkpoints").exists()
    lifecycle.train(small(drawn_set, run, resume=True), "synth-pair")
    assert not (run / decoder.UNFINISHED).exists()
    assert differing_keys(load_file(run / decoder.FILE), load_file(whole / decoder.FILE)) == []
    assert logged_metrics(run) == logged_metrics(whole)


def test_picture_of_pairs(whole: Path, drawn_set: Path, tmp_path: Path):
    out = draw_pairs(Pairs(whole, split="train", rows=3))
    assert out == whole / "pairs.png"
    sheet = np.asarray(Image.open(out).convert("RGB"))
    assert sheet.shape[1] > 4 * 160
    again = draw_pairs(Pairs(whole, drawn_set, "train", rows=3, out=tmp_path / "again.png"))
    other = draw_pairs(Pairs(whole, drawn_set, "test", rows=3, seed=1, out=tmp_path / "other.png"))
    assert again.read_bytes() == out.read_bytes()
    assert other.read_bytes() != out.read_bytes()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(InputError, match="--rows is 99.*1 to 32"):
        draw_pairs(Pairs(whole, drawn_set, "train", rows=99))


def test_pairs_of_chosen_images_are_first_in_the_batch(whole: Path, drawn_set: Path, tmp_path: Path, monkeypatch):
    reader, batches, captions = ShardSet.open(drawn_set).split("test"), [], []
    draw = pairs.pairs
    monkeypatch.setattr(
        pairs, "pairs", lambda objective, batch, seed: batches.append(batch) or draw(objective, batch, seed)
    )
    monkeypatch.setattr(pairs, "caption", lambda data, sample: captions.append(meta(sample)["id"]) or "")
    ids = tuple(meta(reader.read(number))["id"] for number in (7, 2))
    pairs.draw_pairs(Pairs(whole, drawn_set, "test", ids, out=tmp_path / "ids.png"))
    assert captions == [*ids]
    views = small().views
    with load(drawn_set, views=replace(views, plain=True), batch_size=16, split="test", shuffle=False) as loader:
        everything = next(iter(loader))["plain"]
    assert torch.equal(batches[0]["plain"][:2], everything[[7, 2]])
    assert len(batches[0]["plain"]) == 16, "the statistics of the batch are those of all 16 images"
    with pytest.raises(InputError, match="--ids: nothing is not an image of the test split"):
        pairs.draw_pairs(Pairs(whole, drawn_set, "test", ("nothing",)))


def test_the_mean_image_error_is_that_of_the_best_constant():
    """Over many batches its mean is the variance around the mean of all images, which no constant image can beat."""
    x = torch.randn(4000, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double() * 2 + 1
    best = F.mse_loss(x.mean(0).expand_as(x), x)
    estimate = torch.stack([decoder.mean_image_error(part) for part in x.split(4)]).mean()
    assert float(estimate) == pytest.approx(float(best), rel=0.01)
    assert float(decoder.mean_image_error(x[:1])) == 0


def test_the_first_line_of_metrics_does_not_count_the_warm_up(drawn_set: Path, tmp_path: Path, monkeypatch):
    """A warm-up of a million seconds, by a clock that jumps, does not lower the rate of the steps after it."""
    clock, jump = time.perf_counter, [0.0]
    monkeypatch.setattr("fgtrain.engine.monitor.time.perf_counter", lambda: clock() + jump[0])

    def warm_up(*_: Any) -> bool:
        jump[0] += 1e6
        return True

    monkeypatch.setattr(decoder, "warm_up", warm_up)
    run = lifecycle.train(replace(small(drawn_set, tmp_path / "run"), epochs=1), "synth-pair")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["images_per_second"] > 0.05


@pytest.mark.parametrize("damage", ["cut", "flipped", "not finite", "other shape", "not torch"])
def test_damaged_warm_up_state_names_the_file_to_remove(damage: str, tmp_path: Path):
    network = decoder.Decoder(64, 32, 4, 1)
    optimizer, file = torch.optim.Adam(network.parameters()), tmp_path / decoder.UNFINISHED
    state = {"epoch": 1, "decoder": network.state_dict(), "optimizer": optimizer.state_dict(), "loader": {}}
    if damage == "not finite":
        state["decoder"] = {k: v * torch.nan for k, v in state["decoder"].items()}
    if damage == "other shape":
        state["decoder"] = decoder.Decoder(64, 32, 8, 1).state_dict()
    torch.save(state, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= damage == "flipped"
    file.write_bytes({"cut": content[:900], "not torch": b"text"}.get(damage, content))
    with pytest.raises(InputError, match=rf"{decoder.UNFINISHED} cannot be used[\s\S]*rm .*{decoder.UNFINISHED}"):
        decoder.restore(file, 2, network, optimizer, None)


def test_damaged_decoder_file_is_refused(tmp_path: Path):
    network, file = decoder.Decoder(64, 32, 4, 1), tmp_path / decoder.FILE
    network.save(file)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged: its checksum differs.*rm "):
        network.load(file)
    with torch.no_grad():
        network.rgb[1].bias[0] = torch.nan  # pyright: ignore[reportIndexIssue, reportArgumentType]
    network.save(file)
    with pytest.raises(InputError, match=r"rgb\.1\.bias has values that are not finite"):
        network.load(file)
