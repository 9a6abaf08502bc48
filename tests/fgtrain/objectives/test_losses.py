"""Each loss against float64 loops written from its equation, and against closed-form values."""

import math

import pytest
import torch

from fgtrain.objectives.losses import (
    alignment,
    attention,
    feature_std,
    info_nce,
    negative_cosine,
    nt_xent,
    sinkhorn,
    soft_info_nce,
    unit,
    wide,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_negative_cosine_matches_loop_and_is_minus_one_for_identical_rows():
    p, h = torch.randn(5, 7, generator=rng(), dtype=torch.float64), torch.randn(5, 7, generator=rng(1)).double()
    loop = 0.0
    for b in range(5):
        dot = sum(float(p[b, i]) * float(h[b, i]) for i in range(7))
        loop -= dot / math.sqrt(sum(float(x) ** 2 for x in p[b])) / math.sqrt(sum(float(x) ** 2 for x in h[b])) / 5
    assert float(negative_cosine(p, h)) == pytest.approx(loop, abs=1e-12)
    assert float(negative_cosine(p, 3 * p)) == pytest.approx(-1, abs=1e-12)


def test_info_nce_matches_loop():
    unit = torch.nn.functional.normalize
    q, k, queue = (unit(torch.randn(n, 6, generator=rng(n), dtype=torch.float64), dim=1) for n in (4, 4, 9))
    q, k = q[:4], k.flip(0)
    loop = 0.0
    for b in range(4):
        positive = math.exp(float(q[b] @ k[b]) / 0.2)
        negatives = sum(math.exp(float(q[b] @ queue[j]) / 0.2) for j in range(9))
        loop -= math.log(positive / (positive + negatives)) / 4
    assert float(info_nce(q, k, queue, 0.2)) == pytest.approx(loop, abs=1e-12)


def test_further_negatives_of_each_query_enter_its_denominator():
    q, k, queue = (unit(torch.randn(n, 6, generator=rng(n), dtype=torch.float64)) for n in (3, 3, 5))
    more = torch.tensor([[0.3, -torch.inf], [-torch.inf, -torch.inf], [0.1, -0.2]], dtype=torch.float64)
    loop = 0.0
    for b in range(3):
        cosines = [*(float(q[b] @ row) for row in queue), *more[b].tolist()]
        positive = math.exp(float(q[b] @ k[b]) / 0.2)
        loop -= math.log(positive / (positive + sum(math.exp(c / 0.2) for c in cosines))) / 3
    assert float(info_nce(q, k, queue, 0.2, more)) == pytest.approx(loop, abs=1e-12)


def test_soft_info_nce_matches_loop_and_is_info_nce_for_identity_targets():
    q, k, queue = (unit(torch.randn(n, 6, generator=rng(n), dtype=torch.float64)) for n in (4, 4, 9))
    targets = torch.rand(2, 4, generator=rng(), dtype=torch.float64)
    targets /= targets.sum(1, keepdim=True)
    loop = 0.0
    for b in range(2):  # the queries of one of two processes
        below = sum(math.exp(float(q[b] @ row) / 0.2) for row in (*k, *queue))
        for j in range(4):
            loop -= float(targets[b, j]) * math.log(math.exp(float(q[b] @ k[j]) / 0.2) / below) / 2
    assert float(soft_info_nce(q[:2], k, targets, queue, 0.2)) == pytest.approx(loop, abs=1e-12)
    others = (q @ k.T).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
    hard = info_nce(q, k, queue, 0.2, others)  # the other keys of the batch are negatives
    assert float(soft_info_nce(q, k, torch.eye(4).double(), queue, 0.2)) == pytest.approx(float(hard), abs=1e-12)


def test_the_assignment_of_sinkhorn_has_its_closed_forms():
    orthogonal = sinkhorn(torch.eye(5, dtype=torch.float64), eps=0.5)  # doubly stochastic at once
    own = math.exp(2) / (math.exp(2) + 4)
    torch.testing.assert_close(orthogonal, torch.full((5, 5), (1 - own) / 4).double().fill_diagonal_(own))
    equal = sinkhorn(torch.eye(5, dtype=torch.float64)[:1].expand(3, -1), eps=0.05)
    torch.testing.assert_close(equal, torch.full((3, 3), 1 / 3).double())
    keys = unit(torch.randn(6, 4, generator=rng(), dtype=torch.float64))
    shares = (keys @ keys.T / 0.3).exp()
    for _ in range(3):
        shares = shares / shares.sum(0, keepdim=True)
        shares = shares / shares.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn(keys, eps=0.3), shares)
    torch.testing.assert_close(sinkhorn(keys, eps=1e-3), torch.eye(6).double())
    torch.testing.assert_close(sinkhorn(keys, eps=0.3, rounds=1000).sum(0), torch.ones(6).double())


def test_info_nce_of_identical_rows_is_log_of_the_count():
    row = torch.nn.functional.normalize(torch.ones(1, 8, dtype=torch.float64), dim=1)
    value = info_nce(row.expand(3, -1), row.expand(3, -1), row.expand(31, -1), 0.2)
    assert float(value) == pytest.approx(math.log(32), abs=1e-12)


def two_views(n: int = 5, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (unit(torch.randn(n, d, generator=rng(seed), dtype=torch.float64)) for seed in (1, 2))
    return a, b


@pytest.mark.parametrize("denominator", ["nt-xent", "paper"])
def test_nt_xent_matches_loop(denominator):
    (a, b), tau = two_views(), 0.3
    rows = [*a, *b]
    loop = 0.0
    for i, anchor in enumerate(rows):
        positive = (i + 5) % 10
        excluded = {i} if denominator == "nt-xent" else {i, positive}
        below = sum(math.exp(float(anchor @ other) / tau) for j, other in enumerate(rows) if j not in excluded)
        loop -= math.log(math.exp(float(anchor @ rows[positive]) / tau) / below) / 10
    assert float(nt_xent(a, b, tau, denominator=denominator)) == pytest.approx(loop, abs=1e-12)


@pytest.mark.parametrize(("denominator", "count"), [("nt-xent", 13), ("paper", 12)])
def test_nt_xent_of_identical_rows_is_log_of_the_count(denominator, count: int):
    rows = unit(torch.ones(7, 4, dtype=torch.float64))
    assert float(nt_xent(rows, rows, 0.1, denominator=denominator)) == pytest.approx(math.log(count), abs=1e-12)


def test_nt_xent_of_a_batch_is_the_mean_over_its_parts():
    a, b = two_views(6)
    parts = [float(nt_xent(a, b, 0.1, slice(i, i + 2))) for i in (0, 2, 4)]
    assert sum(parts) / 3 == pytest.approx(float(nt_xent(a, b, 0.1)), abs=1e-12)


def test_lightly_agrees():
    theirs = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    a, b = two_views(9, 16)
    assert float(nt_xent(a, b, 0.2)) == pytest.approx(float(theirs.NTXentLoss(temperature=0.2)(a, b)), abs=1e-9)
    assert float(negative_cosine(a, b)) == pytest.approx(float(theirs.NegativeCosineSimilarity()(a, b)), abs=1e-9)


def test_unit_rows_and_widening():
    x = torch.randn(3, 5, generator=rng())
    torch.testing.assert_close(unit(x).norm(dim=1), torch.ones(3))
    assert wide(x.half()).dtype == wide(x.bfloat16()).dtype == torch.float32
    assert wide(x.double()).dtype == torch.float64


@pytest.mark.parametrize("normalize", ["none", "cosine"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_alignment_matches_loop(normalize: str, reduction: str):
    batch, d, height, width, scale = 2, 5, 3, 2, 8.0
    p = torch.randn(batch, d, height, width, generator=rng(), dtype=torch.float64)
    h = torch.randn(batch, d, height, width, generator=rng(1), dtype=torch.float64)
    mask = torch.rand(
        batch, 1, height, width, generator=rng(2), dtype=torch.float64
    )  # no downsampling: delta is identity
    loop = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                best = 0.0
                for v in range(height):
                    for u in range(width):
                        a, c = p[b, :, y, x], h[b, :, v, u]
                        dot = sum(float(a[i]) * float(c[i]) for i in range(d))
                        if normalize == "cosine":
                            dot *= scale / math.sqrt(sum(float(i) ** 2 for i in a) * sum(float(i) ** 2 for i in c))
                        best = max(best, 1 / (1 + math.exp(-dot)))
                loop += (float(mask[b, 0, y, x]) - best) ** 2 / batch / (height * width if reduction == "mean" else 1)
    value = alignment(attention(p, h, normalize, scale), mask, (height, width), reduction)
    assert float(value) == pytest.approx(loop, abs=1e-12)


def test_alignment_of_a_perfect_map_is_zero():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32, 16:48] = 1
    target = torch.nn.functional.interpolate(mask, (4, 4), mode="bilinear", antialias=True).flatten(1).double()
    perfect = torch.logit(target.clamp(1e-9, 1 - 1e-9))[:, :, None].expand(-1, -1, 16)
    assert float(alignment(perfect, mask, (4, 4), "sum")) < 1e-12


def test_alignment_of_the_opposite_map_is_one_at_every_position():
    mask = torch.ones(2, 1, 8, 8)
    nothing = torch.full((2, 16, 16), -1e3)
    assert float(alignment(nothing, mask, (4, 4), "mean")) == pytest.approx(1)
    assert float(alignment(nothing, mask, (4, 4), "sum")) == pytest.approx(16)


def test_mask_is_downsampled_with_a_triangle_filter_as_wide_as_the_step():
    size, cells = 96, 3
    mask = torch.zeros(1, 1, size, size)
    mask[..., 30:67, 11:50] = 1
    step = size / cells
    weights = [[max(0.0, 1 - abs(i + 0.5 - (c + 0.5) * step) / step) for i in range(size)] for c in range(cells)]
    rows = torch.tensor([[w / sum(row) for w in row] for row in weights], dtype=torch.float64)  # (cells, size)
    expected = rows @ mask[0, 0].double() @ rows.T
    nothing = torch.full((1, 9, 9), -200.0)  # correspondence 0 everywhere, so the loss is the sum of squared targets
    value = float(alignment(nothing, mask, (cells, cells), "sum"))
    assert value == pytest.approx(float(expected.square().sum()), rel=1e-5)  # float32 resampling


def test_losses_stay_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        q = torch.nn.functional.normalize(torch.randn(4, 64, generator=rng()), dim=1)
        value = info_nce(q.bfloat16(), q.bfloat16(), q, 0.2)
        a = attention(torch.randn(1, 8, 2, 2).bfloat16(), torch.randn(1, 8, 2, 2).bfloat16(), "none", 1.0)
    assert value.dtype == torch.float32
    assert a.dtype == torch.float32


def test_feature_std_detects_collapse():
    assert float(feature_std(torch.ones(50, 8))) == pytest.approx(0, abs=1e-6)
    assert float(feature_std(torch.randn(4000, 64, generator=rng()))) == pytest.approx(1, abs=0.02)
