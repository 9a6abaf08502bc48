"""Synthesized pairs: loss, gradient and scores against float64 loops, what a step changes, two processes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_cases import batch, batch_of, build, features, small
from processes import run_two
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.objectives.synth_pair import min_max
from fgtrain.settings import methods


def simclr_loop(a: np.ndarray, b: np.ndarray, tau: float, with_positive: bool) -> float:
    """Eq. 7 as printed, over both halves. `with_positive` includes the positive in the denominator."""
    rows, n, total = [*a, *b], len(a), 0.0
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    for i, anchor in enumerate(rows):
        partner = (i + n) % (2 * n)
        likeness = [math.exp(sum(x * y for x, y in zip(anchor, row)) / tau) for row in rows]
        below = sum(e for j, e in enumerate(likeness) if j != i and (with_positive or j != partner))
        total -= math.log(likeness[partner] / below) / (2 * n)
    return total


@pytest.mark.parametrize("denominator", ["paper", "nt-xent"])
@pytest.mark.parametrize("base", ["moco", "simsiam"])
def test_loss_is_the_sum_of_its_parts(base: str, denominator: str):
    objective, data = build(base, denominator=denominator, alpha=0.7, nu=0.3), batch()
    torch.manual_seed(3)
    with torch.no_grad():
        contrast, _, _, _ = build(base).base.compare(data["views"], 0.0)
        loss, logs = objective(data, 0.0)

        again, x = build(base, denominator=denominator), data["plain"]
        v = again.encoder(x).pooled
        again.remember(v)
        torch.manual_seed(3)
        x_hat, x_p = again.decoder(v).double(), again.decoder(again.perturb(v, data["views"][1])[0]).double()
        squares = [(float(a) - float(b)) ** 2 for a, b in zip(x.flatten(), x_hat.flatten())]
        z_hat, z_p = (again.base.projector(again.encoder(y).pooled).numpy() for y in (x_hat, x_p))
    pair = simclr_loop(z_hat, z_p, 0.2, denominator == "nt-xent")
    reconstruct = sum(squares) / len(squares)
    close = {"abs": 1e-9}
    assert float(logs["contrast"]) == pytest.approx(float(contrast), **close)
    assert float(logs["reconstruct"]) == pytest.approx(reconstruct, **close)
    assert float(logs["pair"]) == pytest.approx(pair, **close)
    assert float(loss) == pytest.approx(float(contrast) + 0.7 * reconstruct + 0.3 * pair, **close)


def test_gradient_is_the_sum_of_its_parts_and_pairs_do_not_reach_the_decoder():
    def gradients(alpha: float, nu: float) -> dict[str, Tensor]:
        objective = build(alpha=alpha, nu=nu)
        torch.manual_seed(0)
        objective(batch(), 0.0)[0].backward()
        named = {k: p for k, p in objective.named_parameters() if "target_" not in k}
        return {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in named.items()}

    contrast, reconstruct, pair, whole = (gradients(*w) for w in ((0, 0), (1, 0), (0, 1), (0.7, 0.3)))
    for name, expected in contrast.items():
        parts = expected + 0.7 * (reconstruct[name] - expected) + 0.3 * (pair[name] - expected)
        torch.testing.assert_close(whole[name], parts, rtol=1e-6, atol=1e-9)
    assert all(reconstruct[k].abs().max() > 0 for k in contrast if k.startswith("decoder."))
    assert all(pair[k].abs().max() == 0 for k in contrast if k.startswith("decoder."))
    conv1 = "base.encoder.network.conv1.weight"
    assert not torch.equal(reconstruct[conv1], contrast[conv1])
    assert not torch.equal(pair[conv1], contrast[conv1])


@pytest.mark.parametrize(("denominator", "count"), [("paper", 8), ("nt-xent", 9)])
def test_pair_loss_of_identical_rows_is_log_of_the_count(denominator: str, count: int):
    objective, data = build(denominator=denominator), batch()
    last = objective.base.projector[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.ones_(last.bias)
    with torch.no_grad():
        value = float(objective.compare(*data["views"]))
    assert value == pytest.approx(math.log(count), abs=1e-9)


@pytest.mark.parametrize("denominator", ["paper", "nt-xent"])
def test_eta_is_gradient_times_feature_by_finite_differences(denominator: str):
    objective, v, v_2 = build(denominator=denominator), features(3), features(3, seed=2)
    view = batch(3)["views"][1]
    first, last = objective.base.projector[0], objective.base.projector[-1]
    w, b, w_2, b_2 = (p.detach().numpy() for p in (first.weight, first.bias, last.weight, last.bias))

    def head(rows: np.ndarray) -> np.ndarray:
        return np.maximum(rows @ w.T + b, 0) @ w_2.T + b_2

    def l_c(rows: np.ndarray) -> float:
        return simclr_loop(head(rows), head(v_2.numpy()), 0.2, denominator == "nt-xent")

    eta, step = objective.score(v, view, v_2), 1e-6
    assert eta.shape == v.shape
    assert not eta.requires_grad
    for b_, i in [(0, 0), (0, 7), (1, 3), (1, 40), (2, 63), (2, 20)]:
        up, down = v.numpy().copy(), v.numpy().copy()
        up[b_, i], down[b_, i] = up[b_, i] + step, down[b_, i] - step
        slope = (l_c(up) - l_c(down)) / (2 * step)
        assert float(eta[b_, i]) == pytest.approx(max(0.0, slope * float(v[b_, i])), abs=1e-8)

    leaf = v.clone().requires_grad_()
    unit = torch.nn.functional.normalize
    rows = torch.cat([unit(objective.base.projector(x), dim=1) for x in (leaf, v_2)])
    likeness, total = (rows @ rows.T / 0.2).exp(), torch.zeros((), dtype=torch.float64)
    for i in range(6):
        j = (i + 3) % 6
        absent = likeness[i, i] if denominator == "nt-xent" else likeness[i, i] + likeness[i, j]
        total = total - (likeness[i, j] / (likeness[i].sum() - absent)).log() / 6
    total.backward()
    assert leaf.grad is not None
    torch.testing.assert_close(eta, torch.relu(leaf.grad * v), rtol=1e-9, atol=1e-12)


def test_eta_is_zero_where_gradient_or_feature_is_zero():
    objective, v = build(), features(4)
    with torch.no_grad():
        objective.base.projector[0].weight[:, 5] = 0  # nothing depends on feature 5
    v[:, 9] = 0
    eta = objective.score(v, batch(4)["views"][1], features(4, seed=2))
    assert (eta[:, [5, 9]] == 0).all()
    assert (eta > 0).any(1).all()
    assert (min_max(eta)[:, [5, 9]] == 0).all()  # so their noise is the largest


def test_scoring_changes_no_state():
    for base in ("moco", "simsiam"):
        objective, data = build(base), batch()
        before = {k: v.clone() for k, v in objective.state_dict().items()}
        eta = objective.score(features(5), data["views"][1])
        assert all(torch.equal(before[k], v) for k, v in objective.state_dict().items())
        assert all(p.grad is None for p in objective.parameters())
        with torch.no_grad():  # f(x'') is the encoder's in training mode
            known = objective.encoder(data["views"][1]).pooled
        assert torch.equal(objective.score(features(5), data["views"][1], known), eta)


@pytest.mark.parametrize("statistics", ["real", "all"])
def test_decoded_images_update_running_statistics_only_with_statistics_all(statistics: str):
    def after(**pair) -> dict[str, Tensor]:
        objective = build("simsiam", **pair)
        objective(batch(), 0.0)
        state = objective.state_dict()
        return {k: v for k, v in state.items() if "running_" in k and "predictor" not in k}

    without, ours = after(nu=0), after(statistics=statistics)
    assert ours.keys() == without.keys()
    assert all(torch.equal(ours[k], without[k]) == (statistics == "real") for k in without)


@pytest.mark.parametrize(
    ("base", "pair", "passes"),
    [
        ("moco", {}, 5),  # x', x, x'', decoded, perturbed
        ("moco", {"perturb": "low-variance"}, 4),  # x'' is needed only for the scores
        ("moco", {"nu": 0}, 2),
        ("simsiam", {}, 5),  # the base already computes x''
        ("simsiam", {"nu": 0}, 3),
    ],
)
def test_number_of_encoder_passes(base: str, pair: dict, passes: int):
    objective, forward_passes = build(base, double=False, **pair), []
    objective.encoder.register_forward_hook(lambda *_: forward_passes.append(1))
    data = {k: v.float() for k, v in batch().items()}
    loss, logs = objective(data, 0.0)
    assert len(forward_passes) == passes
    assert math.isfinite(loss.item())
    assert all(v.ndim == 0 and not v.requires_grad for v in logs.values())


def test_evaluation_does_not_change_the_bank():
    objective, data = build(double=False).eval(), {k: v.float() for k, v in batch().items()}
    objective(data, 0.0)
    assert int(objective.stored) == 0


def test_bfloat16_networks_give_finite_losses_and_float32_features():
    objective, data = build(double=False), {k: v.float() for k, v in batch().items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = objective(data, 0.0)
    assert loss.dtype == torch.float32
    assert objective.bank.dtype == torch.float32
    assert float(logs["eta_zero"]) < 0.9
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.decoder.parameters())


def test_the_papers_normalisation_and_kappa_select_every_dimension():
    objective = objectives.build(small(bank_normalize="l2", kappa=0.2, kappa_quantile=0.0), samples=40)
    logs = objective.train()(batch_of(objective), 0.0)[1]
    assert float(logs["selected"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": ViewSpec(size=48)}, "views.size is 48; allowed: a multiple of 32"),
        ({"moco": methods.MocoSettings(queue=4)}, "moco.queue is 4"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(small(), **change)
    with pytest.raises(InputError, match="pair.kappa is -1"):
        methods.PairSettings(kappa=-1)
    with pytest.raises(InputError, match="reconstruct.width is 3; allowed: an even"):
        methods.ReconstructSettings(width=3)


def test_predictor_of_simsiam_keeps_its_constant_rate_within_synth_pair():
    objective = build("simsiam")
    names = [name for name, _ in objective.named_parameters() if name.startswith(tuple(objective.rates))]
    assert len(names) == len(list(objective.base.predictor.parameters()))
    assert set(objective.rates.values()) == {"constant"}
    assert build("moco").rates == {}


def on_rank(rank: int, folder: Path) -> None:
    """Saves scores, pair loss, bank and gradients of this rank's half of six samples in `folder`."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    own = slice(3 * rank, 3 * rank + 3)
    results, model = results_of(own), DistributedDataParallel(build())
    torch.manual_seed(rank)  # each rank draws its own noise
    data = batch(6)
    model({"views": data["views"][:, own], "plain": data["plain"][own]}, 0.0)[0].backward()
    results["step"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.save({**results, "remembered": model.module.bank}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def results_of(own: slice) -> dict[str, Tensor]:
    objective, data = build().eval(), batch(6)  # evaluation mode: batch norm is the same for the batch and its halves
    eta = objective.score(features(6)[own], data["views"][1, own])
    loss = objective.compare(data["views"][0, own], data["views"][1, own])
    objective.remember(features(6)[own])
    loss.backward()
    weight = objective.encoder.get_parameter("network.conv1.weight")
    assert weight.grad is not None
    return {"eta": eta, "loss": loss.detach(), "bank": objective.bank, "gradient": weight.grad}


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path):
    run_two(on_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = results_of(slice(None))
    torch.testing.assert_close(torch.cat([first["eta"], second["eta"]]), whole["eta"])
    for name in ("loss", "gradient"):  # the trainer averages them
        torch.testing.assert_close((first[name] + second[name]) / 2, whole[name])
    assert torch.equal(first["bank"], whole["bank"])
    assert torch.equal(second["bank"], whole["bank"])
    assert len(first["step"]) > 100_000
    for name in ("step", "remembered"):
        assert torch.isfinite(first[name]).all()
        assert torch.equal(first[name], second[name])
