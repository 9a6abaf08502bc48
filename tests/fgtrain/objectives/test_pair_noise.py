"""The bank, the variances and the noise of synthesized pairs against float64 loops, and what a run says of them."""

import pytest
import torch
from pair_cases import batch, build, features
from torch import Tensor

from fgtrain.objectives import decoder
from fgtrain.objectives.synth_pair import SynthPair, min_max, variance


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
