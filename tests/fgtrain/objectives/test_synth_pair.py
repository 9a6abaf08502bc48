"""Synthesized pairs: every equation against float64 loops."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_two
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.objectives import decoder
from fgtrain.objectives.synth_pair import SynthPair, min_max, variance
from fgtrain.settings import common, methods


def small(base="moco", **pair) -> methods.SynthPairConfig:
    """A network of width 8 at 32 px, a bank of 20, no warm-up."""
    return methods.SynthPairConfig(
        base=base,
        model=common.Model(width=8),
        views=ViewSpec(size=32),
        data=common.Data(batch_size=8),
        moco=methods.MocoSettings(dim=8),
        simsiam=methods.SimsiamSettings(hidden=16, dim=8, bottleneck=4),
        pair=methods.PairSettings(**{"bank": 20, **pair}),
        reconstruct=methods.ReconstructSettings(width=4, depth=1, epochs=0, batch_size=8),
    )


def build(base="moco", double: bool = True, **pair) -> SynthPair:
    objective = objectives.build(small(base, **pair), samples=40).train()
    return objective.double() if double else objective


def batch(n: int = 5, size: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views, plain = (torch.randn(*shape, 3, size, size, generator=generator) for shape in ((2, n), (n,)))
    return {"views": views.double(), "plain": plain.double()}


def features(n: int, dim: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_min_max_matches_loop_and_is_zero_for_equal_values():
    x = features(3, 6)
    for row, out in zip(x, min_max(x)):
        low, high = min(map(float, row)), max(map(float, row))
        assert out.tolist() == pytest.approx([(float(v) - low) / (high - low) for v in row], abs=1e-12)
    assert (min_max(torch.full((2, 4), 0.3)) == 0).all()


@pytest.mark.parametrize("stored", [7, 20, 33])
def test_variance_matches_loop_and_closed_forms(stored: int):
    filled = min(stored, 20)
    bank = torch.zeros(20, 6, dtype=torch.float64)
    bank[:filled] = features(filled, 6)
    bank[:filled, 2], bank[:, 4] = 0.7, 0
    count = torch.tensor(stored)
    for i in range(6):
        column = [float(x) for x in bank[:filled, i]]
        mean, square = sum(column) / filled, sum(x * x for x in column) / filled
        s = sum((x - mean) ** 2 for x in column) / filled
        for normalize, divisor in (("none", 1), ("rms", square), ("l2", square * filled)):
            value = float(variance(bank, count, normalize)[i])
            assert value == pytest.approx(s / divisor if divisor else 0, abs=1e-12)
        if square:
            assert float(variance(bank, count, "rms")[i]) == pytest.approx(1 - mean**2 / square, abs=1e-12)
    literal = torch.nn.functional.normalize(bank[:filled], dim=0).var(0, correction=0)  # as in the paper's pseudo-code
    torch.testing.assert_close(variance(bank, count, "l2"), literal)
    assert float(literal.max()) <= 1 / filled
    assert (variance(bank, count, "rms")[[2, 4]].abs() < 1e-12).all()  # constant dimensions


def test_bank_turns_over_oldest_first():
    objective = build(bank=5)
    rows = torch.arange(14.0, dtype=torch.float64)[:, None].expand(-1, 64)
    objective.remember(rows[:3])
    assert objective.bank[:, 0].tolist() == [0, 1, 2, 0, 0]
    objective.remember(rows[3:7])
    assert objective.bank[:, 0].tolist() == [5, 6, 2, 3, 4]
    objective.remember(rows[7:])  # more than its size: the newest five remain
    assert sorted(objective.bank[:, 0].tolist()) == [9, 10, 11, 12, 13]
    objective.remember(rows[:1])
    assert sorted(objective.bank[:, 0].tolist()) == [0, 10, 11, 12, 13]
    assert int(objective.stored) == 15


def perturbed(
    perturb: str, kappa: float = 0.02, kappa_quantile: float = 0.0
) -> tuple[SynthPair, Tensor, Tensor, dict[str, Tensor], Tensor]:
    """Perturbs with a bank whose feature 3 is nearly constant -> objective, v, v_p, logs, both normal draws."""
    objective = build(perturb=perturb, kappa=kappa, kappa_quantile=kappa_quantile)
    v, view = features(4), batch(4)["views"][1]
    bank = features(20, seed=5)
    bank[:, 3] = 1 + 0.01 * bank[:, 3]
    objective.remember(bank)
    torch.manual_seed(11)
    draws = torch.stack([torch.randn_like(v), torch.randn_like(v)])
    torch.manual_seed(11)
    v_p, logs = objective.perturb(v, view)
    return objective, v, v_p, logs, draws


def test_noise_matches_equations_5_and_6():
    objective, v, v_p, logs, draws = perturbed("both", kappa=0.2)
    eta = objective.score(v, batch(4)["views"][1])
    s = [float(x) for x in variance(objective.bank, objective.stored, "rms")]
    assert 0 < sum(x < 0.2 for x in s) < 64
    for b in range(4):
        scores = [float(x) for x in eta[b]]
        for i in range(64):
            eta_bar = (scores[i] - min(scores)) / (max(scores) - min(scores))
            s_bar = (s[i] - min(s)) / (max(s) - min(s))
            noise = 0.1 * (1 - eta_bar) * float(draws[0, b, i])
            if s[i] < 0.2:
                noise += 0.05 * (1 - s_bar) * float(draws[1, b, i])
            assert float(v_p[b, i]) == pytest.approx(float(v[b, i]) + noise, abs=1e-12)
    assert float(logs["eta_zero"]) == pytest.approx(float((eta == 0).double().mean()))
    assert float(logs["selected"]) == pytest.approx(sum(x < 0.2 for x in s) / 64)


def test_a_share_of_the_dimensions_is_those_that_vary_least():
    objective, v, v_p, logs, _ = perturbed("low-variance", kappa_quantile=0.25)
    s = variance(objective.bank, objective.stored, "rms")
    lowest = set(s.argsort()[:16].tolist())  # a quarter of 64
    changed = {i for i in range(64) if not torch.equal(v_p[:, i], v[:, i])}
    assert changed == lowest
    assert float(logs["selected"]) == 0.25


@pytest.mark.parametrize(("kappa", "which"), [(0.0, "no"), (9.0, "every")])
def test_an_epoch_that_selects_nothing_or_everything_is_said_once(kappa: float, which: str):
    objective, lines = build(kappa=kappa, kappa_quantile=0.0), []
    for _ in range(2):
        objective(batch(), 0.0)
        objective.after_epoch(1, None, lines.append)
    (line,) = [line for line in lines if "selected" in line]
    assert f"{which} dimension was selected" in line
    assert "--pair.kappa-quantile" in line
    share, lines = build(), []
    share(batch(), 0.0)
    share.after_epoch(1, None, lines.append)
    assert not any("selected" in line for line in lines)


def test_a_decoder_no_better_than_the_mean_image_is_said_once(monkeypatch):
    objective, lines = build(), []
    images = batch()
    x = images["plain"]
    constant = float((x - x.mean(0)).square().sum(0).mean()) / (len(x) - 1)
    for factor, expected in ((1.01, 0), (0.99, 1), (0.99, 1)):  # of the mean image's error to that of the decoder
        with torch.no_grad():
            error = float(((objective.decoder(objective.encoder(x).pooled) - x) ** 2).mean())
        fixed = torch.tensor(error * factor, dtype=torch.float64)
        monkeypatch.setattr(decoder, "mean_image_error", lambda _, fixed=fixed: fixed)
        _, logs = objective(images, 0.0)
        assert float(logs["mean_image"]) == pytest.approx(factor * float(logs["reconstruct"]), rel=1e-3)
        objective.after_epoch(1, None, lines.append)
        assert sum("no better than the mean image" in line for line in lines) == expected
    monkeypatch.undo()
    assert float(objective(images, 0.0)[1]["mean_image"]) == pytest.approx(constant, rel=1e-6)


def test_a_step_that_is_left_out_hides_no_warning_and_makes_none():
    nan, inf = torch.tensor(torch.nan), torch.tensor(torch.inf)
    for error, share, expected in ((2.0, 1.0, 2), (0.5, 0.5, 0)):
        objective, lines = build(kappa=9.0, kappa_quantile=0.0), []
        objective.errors = [torch.tensor([error, 1.0]), torch.stack([inf, torch.tensor(1.0)])]
        objective.selected = [torch.tensor(share), nan]
        objective.after_epoch(1, None, lines.append)
        assert len(lines) == expected


def test_each_perturbation_adds_only_its_own_noise():
    objective, v, v_p, logs, draws = perturbed("gradcam")
    eta = objective.score(v, batch(4)["views"][1])
    torch.testing.assert_close(v_p, v + 0.1 * (1 - min_max(eta)) * draws[0])
    assert logs.keys() == {"eta_zero", "noise"}
    _, v, v_p, logs, draws = perturbed("low-variance")
    others = [i for i in range(64) if i != 3]
    assert torch.equal(v_p[:, others], v[:, others])  # no noise where s >= kappa
    torch.testing.assert_close(v_p[:, 3], v[:, 3] + 0.05 * draws[0, :, 3])  # the lowest variance receives all of eps
    assert float(logs["selected"]) == pytest.approx(1 / 64)
    _, v, v_p, logs, draws = perturbed("random")
    torch.testing.assert_close(v_p, v + 0.1 * draws[0])
    assert logs.keys() == {"noise"}
    _, v, v_p, logs, _ = perturbed("none")
    assert torch.equal(v_p, v)
    assert float(logs["noise"]) == 0


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


def batch_of(objective: SynthPair) -> dict[str, Tensor]:
    return {k: v.float() for k, v in batch(8, objective.views.size).items()}


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
