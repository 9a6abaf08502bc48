"""Every method: its loss against its equation, online and target weights, refused settings, two processes."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_two
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from trainable import fix_batch_norm

from fgdata.errors import InputError
from fgdata.views import Local, ViewSpec
from fgtrain import objectives
from fgtrain.networks import optim
from fgtrain.objectives import bases, insloc, looc
from fgtrain.objectives.losses import alignment, attention
from fgtrain.objectives.queue import Queue, own_negatives
from fgtrain.settings.common import Config, Data, Model, Optim
from fgtrain.settings.comparisons import (
    AttendSettings,
    LcrConfig,
    LewelConfig,
    LewelSettings,
    LoocConfig,
    RelativeLocationConfig,
    RelativeSettings,
    RotationConfig,
    SamConfig,
    SupervisedConfig,
)
from fgtrain.settings.distillation import BoxDistillConfig, DistillSettings
from fgtrain.settings.methods import (
    AlignSettings,
    ByolConfig,
    ByolSettings,
    CvsaConfig,
    MocoConfig,
    MocoSettings,
    SimclrConfig,
    SimclrSettings,
    SimsiamConfig,
    SimsiamSettings,
)
from fgtrain.settings.multicrop import DinoConfig, DinoSettings
from fgtrain.settings.papn import PapnConfig, PapnSettings
from fgtrain.settings.regions import ForegroundConfig, InslocConfig

SMALL: dict[str, Any] = {
    "model": Model(width=8),
    "data": Data(batch_size=6),
    "views": ViewSpec(size=64),
    "byol": ByolSettings(hidden=16, dim=8),
    "moco": MocoSettings(dim=8),
    "simsiam": SimsiamSettings(hidden=16, dim=8, bottleneck=4),
    "simclr": SimclrSettings(hidden=16, dim=8),
    "align": AlignSettings(hidden=16, dim=8, stages=(3, 4)),
    "attend": AttendSettings(filters=4),
    "lewel": LewelSettings(hidden=16, dim=8),
    "dino": DinoSettings(hidden=16, bottleneck=8, dim=24),
    "papn": PapnSettings(parts=3, dim=6),
    "distill": DistillSettings(size=96),
    "relative": RelativeSettings(patch=21, hidden=16, dropout=0.0),  # 21 of 64 pixels leaves nothing to draw
}


def small(kind: type, **more) -> Any:
    """A config of a network of width 8 with narrow heads."""
    settings = {k: v for k, v in (SMALL | more).items() if k in kind.__dataclass_fields__}
    return kind(**settings | {"views": replace(settings["views"], views=kind.view_count)})


CASES: dict[str, Callable[[], Config]] = {
    "byol": lambda: small(ByolConfig),
    "moco": lambda: small(MocoConfig),
    "moco-symmetric": lambda: small(MocoConfig, moco=MocoSettings(dim=8, symmetric=True)),
    "moco-sinkhorn": lambda: small(MocoConfig, moco=MocoSettings(dim=8, targets="sinkhorn", targets_eps=0.5)),
    "simsiam": lambda: small(SimsiamConfig),
    "simclr": lambda: small(SimclrConfig),
    "cvsa": lambda: small(CvsaConfig),
    "cvsa-moco": lambda: small(CvsaConfig, base="moco"),
    "supervised": lambda: small(SupervisedConfig),
    "rotation": lambda: small(RotationConfig),
    "relative-location": lambda: small(RelativeLocationConfig),
    "looc": lambda: small(LoocConfig),
    "lcr": lambda: small(LcrConfig),
    "lcr-mean": lambda: small(LcrConfig, attend=AttendSettings(4, pool="mean")),
    "lcr-byol": lambda: small(LcrConfig, base="byol"),
    "sam": lambda: small(SamConfig, attend=AttendSettings(4, target="raw")),
    "lewel": lambda: small(LewelConfig),
    "dino": lambda: small(DinoConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "dino-norm": lambda: small(DinoConfig, dino=DinoSettings(hidden=16, bottleneck=8, dim=24, norm=True)),
    "byol-local": lambda: small(ByolConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "moco-local": lambda: small(MocoConfig, views=ViewSpec(size=64, local=Local(count=3, size=32))),
    "foreground": lambda: small(ForegroundConfig),
    "insloc": lambda: small(InslocConfig, views=ViewSpec(size=64, crop="paste")),
    "papn": lambda: small(PapnConfig),
    "box-distill": lambda: small(BoxDistillConfig),
    "cvsa-stage-3": lambda: small(CvsaConfig, align=AlignSettings((3,), 16, 8, "cosine", reduction="sum", weight=0.5)),
}


def batch(n: int = 6, seed: int = 0, name: str = "byol") -> dict[str, Tensor]:
    """A batch for a case, with at least two views."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, n, 1, 64, 64)
    for i in range(n):
        masks[0, i, :, 8 * i : 8 * i + 24, 8:40] = 1
        masks[1, i, :, 16:48, 4 * i : 4 * i + 32] = 1
    views = torch.randn(max(2, CASES[name]().view_count), n, 3, 64, 64, generator=generator)
    local = torch.randn(3, n, 3, 32, 32, generator=generator)
    boxes = torch.rand(2, n, 4, generator=generator) * 16 + torch.tensor([0, 0, 24, 24])
    lent = torch.randn(n, 3, 64, 64, generator=generator)
    more = {"boxes": boxes, "lent": lent, "object": torch.randn(n, 3, 96, 96, generator=generator)}
    more |= {"label": torch.arange(n) % 3, "index": torch.arange(n)}
    if CASES[name]().views.local.count:
        more["local"] = local
    return {"views": views, "masks": masks, **more}


def without_batch_statistics(config: Config) -> Any:
    """The objective in float64 with batch norm in evaluation mode: a sample's output is independent of its batch."""
    objective = objectives.build(config, samples=40, classes=3).double().train()
    fix_batch_norm(objective)
    return objective


@pytest.fixture(autouse=True)
def without_random_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that parts of a batch, and two processes, have the turns and boxes of the whole batch."""
    monkeypatch.setattr(looc, "draw_turns", fixed_turns)
    monkeypatch.setattr(insloc, "move", fixed_boxes)


def fixed_turns(samples: int, _: torch.device) -> Tensor:
    return torch.tensor([[1], [2]]).expand(2, samples)


def fixed_boxes(boxes: Tensor, *_: Any) -> Tensor:
    return boxes + 2


def double(data: dict[str, Tensor], part: slice = slice(None)) -> dict[str, Tensor]:
    rows = ("label", "index", "lent", "object")  # their samples come first
    return {
        k: (v[part] if k in rows else v[:, part]).to(torch.double if v.is_floating_point() else v.dtype)
        for k, v in data.items()
    }


def gradients(objective: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


# ---- one process


@pytest.mark.parametrize("name", CASES)
def test_only_online_weights_receive_gradients_and_targets_follow(name: str):
    objective = objectives.build(CASES[name](), samples=40, classes=3).train()
    before = {k: v.detach().clone() for k, v in objective.named_parameters()}
    loss, logs = objective(batch(name=name), 0.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(v.ndim == 0 and not v.requires_grad for v in logs.values())
    for key, parameter in objective.named_parameters():
        assert ("target" in key) == (parameter.grad is None), key
    optimizer = optim.build(objective, Optim("sgd", momentum=0.0), objective.rates)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    objective.after_step(0.0)
    after = dict(objective.named_parameters())
    for key in (key for key, _ in objective.named_parameters() if "target_" in key):
        momentum = getattr(objective, "base", objective).momentum(0.0)
        online = after[key.replace("target_", "")]
        torch.testing.assert_close(after[key], momentum * before[key] + (1 - momentum) * online)


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_depend_only_on_the_seed(name: str):
    """The encoder's, those of every head, and the queues; whatever was drawn before."""

    def initial(seed: int) -> dict[str, Tensor]:
        torch.randn(seed + 1)
        return objectives.build(replace(CASES[name](), seed=seed), samples=40, classes=3).state_dict()

    first, again, other = initial(0), initial(0), initial(1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    random = [k for k, v in first.items() if v.is_floating_point() and v.unique().numel() > 2]
    assert any(k.endswith("conv1.weight") for k in random)
    assert [k for k in random if torch.equal(first[k], other[k])] == []


def cosine(p: Tensor, h: Tensor) -> float:
    return sum(float(a @ b / a.norm() / b.norm()) for a, b in zip(p, h)) / len(p)


@torch.no_grad()
def test_byol_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["byol"]()), double(batch())["views"]
    p = [objective.predictor(objective.projector(objective.encoder(view).pooled)) for view in views]
    h = [objective.target_projector(objective.target_encoder(view).pooled) for view in views]
    loss, _ = objective({"views": views}, 0.0)
    assert loss.item() == pytest.approx(-cosine(p[0], h[1]) / 2 - cosine(p[1], h[0]) / 2, abs=1e-12)


@torch.no_grad()
def test_simsiam_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["simsiam"]()), double(batch())["views"]
    z = [objective.projector(objective.encoder(view).pooled) for view in views]
    p = [objective.predictor(row) for row in z]
    loss, _ = objective({"views": views}, 0.0)
    assert loss.item() == pytest.approx(-cosine(p[0], z[1]) / 2 - cosine(p[1], z[0]) / 2, abs=1e-12)


def test_simsiam_heads_are_the_published_ones():
    objective = objectives.build(SimsiamConfig(), samples=40, classes=3)
    kinds = [type(m).__name__ for m in (*objective.projector, *objective.predictor)]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds == [*hidden, *hidden, "Linear", "BatchNorm1d", *hidden, "Linear"]
    assert not objective.projector[-1].affine
    layers = [m for m in objective.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in layers] == [512, 512, 2048, 512, 2048]  # the first two as wide as the features
    assert [m.bias is not None for m in layers] == [False, False, False, False, True]
    constant = [n for n, _ in objective.named_parameters() if n.startswith(tuple(objective.rates))]
    assert constant == [n for n, _ in objective.named_parameters() if "predictor" in n]
    assert constant


@torch.no_grad()
def test_simclr_loss_matches_its_equation():
    objective, views = without_batch_statistics(CASES["simclr"]()), double(batch())["views"]
    z = torch.cat([objective.projector(objective.encoder(view).pooled) for view in views])
    z = z / z.norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(12):
        below = sum(math.exp(float(z[i] @ z[j]) / 0.1) for j in range(12) if j != i)
        expected -= math.log(math.exp(float(z[i] @ z[(i + 6) % 12]) / 0.1) / below) / 12
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_loss_matches_its_equation(symmetric: bool):
    objective = without_batch_statistics(small(MocoConfig, moco=MocoSettings(dim=8, symmetric=symmetric)))
    views = double(batch())["views"]
    expected = 0.0
    for query, key in ((0, 1), (1, 0))[: 1 + symmetric]:
        q = objective.projector(objective.encoder(views[query]).pooled)
        k = objective.target_projector(objective.target_encoder(views[key]).pooled)
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        for a, b in zip(q, k):
            above = math.exp(float(a @ b) / 0.2)
            below = above + sum(math.exp(float(a @ c) / 0.2) for c in objective.queue.keys)
            expected -= math.log(above / below) / 6 / (1 + symmetric)
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
def test_soft_positives_of_moco_match_their_equation(symmetric: bool):
    """The assignment is that of the keys to one another: columns and rows of exp(cosine / eps) divided by their sums,
    three times. Keys of the batch and of the queue share the softmax."""
    moco = MocoSettings(dim=8, symmetric=symmetric, targets="sinkhorn", targets_eps=0.5)
    objective, views = without_batch_statistics(small(MocoConfig, moco=moco)), double(batch())["views"]
    expected = 0.0
    for query, key in ((0, 1), (1, 0))[: 1 + symmetric]:
        q = objective.projector(objective.encoder(views[query]).pooled)
        k = objective.target_projector(objective.target_encoder(views[key]).pooled)
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        share = [[math.exp(float(a @ b) / 0.5) for b in k] for a in k]
        for _ in range(3):
            sums = [sum(row[j] for row in share) for j in range(6)]
            share = [[x / sums[j] for j, x in enumerate(row)] for row in share]
            share = [[x / sum(row) for x in row] for row in share]
        for i in range(6):
            below = sum(math.exp(float(q[i] @ c) / 0.2) for c in (*k, *objective.queue.keys))
            for j in range(6):
                expected -= share[i][j] * math.log(math.exp(float(q[i] @ k[j]) / 0.2) / below) / 6 / (1 + symmetric)
    assert objective({"views": views}, 0.0)[0].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cvsa", "cvsa-moco", "cvsa-stage-3"])
def test_cvsa_loss_is_the_base_plus_both_halves_of_every_stage(name: str):
    objective, data = without_batch_statistics(CASES[name]()), double(batch())
    settings, expected = objective.align, 0.0
    _, logs = objective(data, 0.0)
    for stage, aligner in objective.aligners.items():
        z = [objective.base.encoder(view).maps[int(stage)] for view in data["views"]]
        z_target = [objective.base.target_encoder(view).maps[int(stage)] for view in data["views"]]
        p = [aligner.predictor(aligner.projector(x)) for x in z]
        h = [aligner.target_projector(x) for x in z_target]
        for q, k in ((0, 1), (1, 0)):
            a = attention(p[q], h[k], settings.normalize, settings.scale)
            expected += float(alignment(a, data["masks"][q], tuple(p[q].shape[2:]), settings.reduction))
    assert logs["align"].item() == pytest.approx(expected, abs=1e-12)
    base, _ = objective.base(data, 0.0)
    total = base.item() + settings.weight * expected
    assert objective(data, 0.0)[0].item() == pytest.approx(total, abs=1e-12)


@torch.no_grad()
def test_cvsa_aligns_with_the_mattes_of_matte_paste():
    """Mattes that are the masks give the same loss; half of each, another."""
    objective, data = without_batch_statistics(CASES["cvsa"]()), double(batch())
    spec = ViewSpec(size=64, crop="matte-paste")
    matted = without_batch_statistics(small(CvsaConfig, views=spec))
    assert (objective.views.masks, objective.views.mattes) == (True, False)
    assert (matted.views.masks, matted.views.mattes) == (False, True)
    masks = data.pop("masks")
    expected = objective(data | {"masks": masks}, 0.0)[1]["align"]
    assert torch.equal(matted(data | {"mattes": masks}, 0.0)[1]["align"], expected)
    assert matted(data | {"mattes": masks / 2}, 0.0)[1]["align"] != expected


@torch.no_grad()
def test_small_views_are_compared_with_the_targets_of_the_large_ones():
    """The loss is the mean over all pairs of a target and another view: BYOL has 2 (1 + L), plain MoCo 1 + L."""
    objective, data = without_batch_statistics(CASES["byol-local"]()), double(batch(name="byol-local"))
    images = [*data["views"], *data["local"]]
    p = [objective.predictor(objective.projector(objective.encoder(x).pooled)) for x in images]
    h = [objective.target_projector(objective.target_encoder(x).pooled) for x in data["views"]]
    pairs = [cosine(p[v], h[g]) for g in range(2) for v in range(5) if v != g]
    assert objective(data, 0.0)[0].item() == pytest.approx(-sum(pairs) / 8, abs=1e-12)
    for symmetric in (False, True):
        views = ViewSpec(size=64, local=Local(count=3, size=32))
        moco = small(MocoConfig, views=views, moco=MocoSettings(dim=8, symmetric=symmetric))
        objective = without_batch_statistics(moco)
        q = [objective.projector(objective.encoder(x).pooled) for x in images]
        k = [objective.target_projector(objective.target_encoder(x).pooled) for x in data["views"]]
        losses = []
        for g in (0, 1) if symmetric else (1,):
            for v in (v for v in range(5) if v != g):
                a, b = q[v] / q[v].norm(dim=1, keepdim=True), k[g] / k[g].norm(dim=1, keepdim=True)
                scores = torch.cat([(a * b).sum(1, keepdim=True), a @ objective.queue.keys.T], 1) / 0.2
                losses.append(-float(scores.log_softmax(1)[:, 0].mean()))
        assert len(losses) == (8 if symmetric else 4)
        assert objective(data, 0.0)[0].item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_queue_turns_over_oldest_first():
    objective = objectives.build(CASES["moco"](), samples=10)  # auto: 8 rows
    queue = objective.queue
    assert queue.keys.shape == (8, 8)
    old = queue.keys.clone()
    one, two = torch.ones(6, 8), torch.full((4, 8), 2.0)
    queue.add(one)
    assert torch.equal(queue.keys, torch.cat([one, old[6:]]))
    queue.add(two)
    assert torch.equal(queue.keys, torch.cat([two[:2], one[2:6], two[:2]]))
    assert int(queue.cursor) == 2


def test_three_moco_steps_match_steps_by_hand():
    objective = without_batch_statistics(CASES["moco"]())
    queue, target = objective.queue.keys.clone(), [p.clone() for p in objective.target_encoder.parameters()]
    for step in range(3):
        data, before = double(batch(seed=step)), objective.queue.keys.clone()
        objective(data, step / 3)[0].backward()
        assert torch.equal(objective.queue.keys, before)  # keys are added after the step
        keys = objective.target_projector(objective.target_encoder(data["views"][1]).pooled)
        queue[6 * step : 6 * step + 6] = keys / keys.norm(dim=1, keepdim=True)
        with torch.no_grad():
            for parameter in objective.encoder.parameters():
                parameter -= 0.1 * parameter.grad
        objective.after_step((step + 1) / 3)
        target = [0.999 * t + 0.001 * p.detach() for t, p in zip(target, objective.encoder.parameters())]
        torch.testing.assert_close(objective.queue.keys, queue)
        for ours, by_hand in zip(objective.target_encoder.parameters(), target):
            torch.testing.assert_close(ours.detach(), by_hand)
        objective.zero_grad()


@pytest.mark.parametrize("name", CASES)
def test_accumulated_gradients_equal_the_batch_when_the_objective_accumulates(name: str):
    whole, parts = without_batch_statistics(CASES[name]()), without_batch_statistics(CASES[name]())
    whole(double(batch(name=name)), 0.0)[0].backward()
    for part in (slice(0, 3), slice(3, 6)):
        (parts(double(batch(name=name), part), 0.0)[0] / 2).backward()
    for objective in (whole, parts):
        objective.after_step(0.0)
    expected, accumulated = gradients(whole), gradients(parts)
    same = all(torch.allclose(accumulated[k], expected[k], rtol=1e-9, atol=1e-12) for k in expected)
    assert same == whole.accumulates
    if name in ("moco", "looc"):
        torch.testing.assert_close(parts.queue.keys, whole.queue.keys)  # of looc: the second


@pytest.mark.parametrize("each", [1, 2])
def test_queue_that_reaches_back_beyond_an_epoch_is_remarked_on(each: int):
    """MoCo adds one key of each image, symmetric MoCo and CVSA two."""
    settings = [small(MocoConfig, moco=MocoSettings(dim=8, symmetric=each == 2))]
    settings += [small(CvsaConfig, base="moco", moco=MocoSettings(dim=8))] * (each == 2)
    for config, (queue, count) in product(settings, ((8, 0), (10 * each, 0), (10 * each + 4, 1))):
        objective = objectives.build(replace(config, moco=replace(config.moco, queue=queue)), samples=10)
        remarks = getattr(objective, "base", objective).queue.remarks
        assert len(remarks) == count
        shares = [f"{own_negatives(n, 10 * each):.0%}" for n in (queue, 8)]
        for line in remarks:
            assert f"{queue} negatives" in line
            assert f"{shares[0]} of the images are among their own negatives" in line
            assert f"auto (8), {shares[1]} are" in line


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("size", [64, 256, 512, 600, 1024, 1500])
def test_share_of_the_images_that_are_among_their_own_negatives(size: int, each: int):
    """Against a queue of the numbers of 512 images that come once per epoch, in batches of 8."""
    queue, found = Queue(size, 1, 512, each), []
    queue.keys.fill_(-1)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(24):
        for numbers in torch.randperm(512, generator=generator).split(8):
            found += torch.isin(numbers, queue.keys[:, 0].long()).tolist() if epoch >= 4 else []
            queue.add(numbers.repeat(each)[:, None].float())
    # The formula is the limit of small batches, and these are 1/64 of an epoch; the standard error is 0.005.
    assert sum(found) / len(found) == pytest.approx(own_negatives(size, each * 512), abs=0.03)


def built(**settings) -> Any:
    return objectives.build(CvsaConfig(**settings), samples=40, classes=3)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: MocoSettings(tau=0), "--moco.tau is 0; allowed: 0.001 to 1,000"),
    (lambda: MocoSettings(queue=0), "--moco.queue is 0"),
    (lambda: MocoSettings(dim=0), "--moco.dim is 0; allowed: 1 to 1,000,000"),
    (lambda: MocoSettings(targets_eps=0.0), "--moco.targets-eps is 0.0; allowed: 0.001 to 1,000"),
    (lambda: MocoSettings(ema=1.5), "--moco.ema is 1.5; allowed: 0 to 1"),
    (lambda: MocoConfig(moco=MocoSettings(queue=128)), "--moco.queue is 128; .*at least --data.batch-size 256"),
    (lambda: CvsaConfig(base="moco", moco=MocoSettings(queue=128)), "--moco.queue is 128"),
    (lambda: SimclrSettings(tau=-1), "--simclr.tau is -1"),
    (lambda: SimclrSettings(hidden=0), "--simclr.hidden is 0"),
    (lambda: SimsiamSettings(bottleneck=0), "--simsiam.bottleneck is 0"),
    (lambda: ByolSettings(ema=-0.1), "--byol.ema is -0.1"),
    (lambda: ByolSettings(hidden=0), "--byol.hidden is 0"),
    (lambda: AlignSettings(stages=()), "--align.stages is empty; allowed: 3, 4 or both: 3 4"),
    (lambda: AlignSettings(stages=(3, 3)), "--align.stages is 3 3"),
    (lambda: AlignSettings(stages=(7,)), "--align.stages is 7"),
    (lambda: AlignSettings(hidden=0), "--align.hidden is 0"),
    (lambda: AlignSettings(scale=0), "--align.scale is 0"),
    (lambda: AlignSettings(weight=-1), "--align.weight is -1"),
    (lambda: built(views=ViewSpec(size=100)), "--views.size is 100; allowed: a multiple of 32.*stages 4"),
    (
        lambda: built(views=ViewSpec(size=40), align=AlignSettings((3,))),
        "--views.size is 40; allowed: a multiple of 16",
    ),
    (lambda: built(views=ViewSpec(size=36), model=Model(width=8, stem="small")), "allowed: a multiple of 8"),
    (
        lambda: built(model=Model("vit_tiny_patch16_224"), align=AlignSettings((3,))),
        "--align.stages is 3, but vit_tiny_patch16_224 has no map at level 3; allowed: 4",
    ),
    (lambda: built(model=Model("vit_tiny_patch16_224"), views=ViewSpec(size=100)), "100.*allowed: 96, 112"),
    (lambda: built(freeze_stages=4), "--freeze-stages is 4, but resnet18 has 4 stages; allowed: 0 to 3"),
    (lambda: built(norm="hold"), "--norm is hold; allowed: train; hold only with --init"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message.split(";")[0] for _, message in REFUSED])
def test_settings_that_cannot_work_are_refused(make: Callable, message: str):
    with pytest.raises(InputError, match=message):
        make()


def test_unused_queue_setting_is_accepted():
    assert CvsaConfig(base="byol", moco=MocoSettings(queue=2)).base == "byol"


# ---- two processes


def run_rank(rank: int, folder: str) -> None:
    """Runs every case on this rank's half of the batch under DDP, and saves loss, gradients and queue."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    looc.draw_turns, insloc.move = fixed_turns, fixed_boxes
    bases.uses_batch = lambda *_: True  # as in training: batch norm is in evaluation mode only to be comparable
    results = {}
    for name, config in CASES.items():
        objective = without_batch_statistics(config())
        base, inputs_seen = getattr(objective, "base", objective), []
        if hasattr(base, "target_encoder"):
            base.target_encoder.register_forward_pre_hook(lambda _, inputs, log=inputs_seen: log.append(inputs[0]))
        data = double(batch(name=name), slice(3 * rank, 3 * rank + 3))
        wrapped = DistributedDataParallel(objective)  # gradients are averaged only while this object exists
        loss, _ = wrapped(data, 0.3)
        loss.backward()
        objective.after_step(0.3)
        losses = [torch.zeros_like(loss) for _ in range(2)]
        dist.all_gather(losses, loss.detach())
        queue = getattr(base, "queue", None)
        results[name] = {
            "loss": torch.stack(losses).mean(),
            "gradients": gradients(objective),
            "queue": None if queue is None else queue.keys.clone(),
            "own": any(torch.equal(x, view) for x in inputs_seen for view in data["views"]),
        }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("two")
    run_two(run_rank, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_the_joined_batch(name: str, two_processes: list[dict]):
    """Batch norm is in evaluation mode, because torch's synchronised batch norm runs only on GPUs."""
    objective = without_batch_statistics(CASES[name]())
    loss, _ = objective(double(batch(name=name)), 0.3)
    loss.backward()
    objective.after_step(0.3)
    for result in (rank[name] for rank in two_processes):
        torch.testing.assert_close(result["loss"], loss.detach())
        expected = gradients(objective)
        assert result["gradients"].keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(result["gradients"][key], expected[key], msg=lambda m, key=key: f"{key}: {m}")
        if result["queue"] is not None:
            torch.testing.assert_close(result["queue"], getattr(objective, "base", objective).queue.keys)


@pytest.mark.slow
def test_keys_are_computed_on_shuffled_samples(two_processes: list[dict]):
    """The target network of a rank never receives the rank's own batch."""
    for rank in two_processes:
        assert not any(rank[name]["own"] for name in ("moco", "moco-symmetric", "moco-sinkhorn", "cvsa-moco", "looc"))
        assert rank["byol"]["own"]
