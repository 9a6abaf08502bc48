"""LCR and SAM: the maps, the divergence and the attended feature, against closed forms and loops."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainable import fix_batch_norm

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.networks import optim
from fgtrain.networks.attention import Attention, attended
from fgtrain.networks.encoder import Encoder
from fgtrain.objectives import attend
from fgtrain.objectives.losses import info_nce, unit
from fgtrain.settings.bases import ByolSettings, MocoSettings
from fgtrain.settings.common import Data, Machine, Model, Optim
from fgtrain.settings.comparisons import AttendSettings, LcrConfig, SamConfig
from fgtrain.settings.methods import MocoConfig

SMALL: dict[str, Any] = {"model": Model(width=8), "data": Data(batch_size=6), "views": ViewSpec(size=96)}
HEADS: dict[str, Any] = {"moco": MocoSettings(dim=8), "byol": ByolSettings(hidden=16, dim=8)}


def build(kind: type = LcrConfig, **more) -> Any:
    """The objective in float64 with batch norm in evaluation mode; maps of 3 x 3."""
    settings = SMALL | (HEADS if kind is LcrConfig else {"views": ViewSpec(size=96, views=1)}) | more
    objective = objectives.build(kind(**settings), samples=40, classes=5).double().train()
    fix_batch_norm(objective)
    return objective


def batch(count: int = 2, n: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(count, n, 3, 96, 96, generator=generator, dtype=torch.float64)
    return {"views": views, "label": torch.arange(n) % 5}


def softmax(x: Tensor, tau: float) -> list[float]:
    e = [math.exp(float(v) / tau) for v in x.detach().flatten()]
    return [v / sum(e) for v in e]


def divergence(cam: Tensor, a: Tensor, tau: float) -> float:
    total = 0.0
    for x, y in zip(cam, a):
        total += sum(p * math.log(p / q) for p, q in zip(softmax(x, tau), softmax(y, tau))) / len(cam)
    return total


# ---- the divergence


def test_the_divergence_is_its_definition_and_its_gradient_is_the_difference_of_the_shares():
    generator = torch.Generator().manual_seed(0)
    cam = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64)
    a = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    loss, target = attend.kl(cam, a, 0.4)
    assert loss.item() == pytest.approx(divergence(cam, a, 0.4), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, a)
    q = (a.detach() / 0.4).flatten(1).softmax(1)
    torch.testing.assert_close(target, (cam / 0.4).flatten(1).softmax(1))
    torch.testing.assert_close(gradient.flatten(1), (q - target) / 0.4 / 3)  # a mean over three images


def test_equal_maps_have_no_divergence_and_no_gradient():
    a = torch.rand(2, 3, 3, dtype=torch.float64).requires_grad_()
    loss, _ = attend.kl(a.detach().clone(), a, 0.4)
    (gradient,) = torch.autograd.grad(loss, a)
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert gradient.abs().max() < 1e-15


def test_scaling_is_per_image_and_leaves_zeros():
    cam = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert attend.scaled(cam).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]]]


# ---- LCR


def last(objective: Any, view: Tensor) -> Tensor:
    return objective.encoder(view).maps[4]


@pytest.mark.parametrize("sign", ["loss", "evidence"])
def test_lcr_on_moco_is_its_equation(sign: str):
    """The derivative is taken of InfoNCE as a function of the map alone: mean, head, unit length."""
    objective, data = build(sign=sign, attend=AttendSettings(4, weight=0.7)), batch()
    base = objective.base
    a = last(objective, data["views"][0]).detach().requires_grad_()
    with torch.no_grad():
        k = unit(base.target_projector(base.target_encoder(data["views"][1]).pooled))
    contrast = info_nce(unit(base.projector(a.mean((2, 3)))), k, base.queue.keys, 0.2)
    (slope,) = torch.autograd.grad(contrast, a)
    cam = ((slope if sign == "loss" else -slope) * a).sum(1).clamp(min=0)
    cam = torch.stack([x / x.max() for x in cam])
    attention = objective.encoder.attend(a).detach()
    expected = contrast.item() + 0.7 * divergence(cam, attention, 0.4)
    loss, logs = objective(data, 0.0)
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert logs["target_peak"].item() == pytest.approx(sum(max(softmax(x, 0.4)) for x in cam) / 6, abs=1e-10)


def test_lcr_on_byol_is_its_equation_with_the_maps_of_both_views():
    """Each map has its own derivative of the loss, which is a loop over the images of both views."""
    objective, data = build(base="byol", attend=AttendSettings(4, weight=0.7)), batch()
    base, views = objective.base, data["views"]
    a = [last(objective, view).detach().requires_grad_() for view in views]
    p = [base.predictor(base.projector(x.mean((2, 3)))) for x in a]
    with torch.no_grad():
        h = [base.target_projector(base.target_encoder(view).pooled) for view in views]
    pairs = [(p[view][i], h[1 - view][i]) for view in (0, 1) for i in range(6)]
    contrast = -torch.stack([x @ y / (x.norm() * y.norm()) for x, y in pairs]).mean()
    cams = [(slope * x).sum(1).clamp(min=0) for slope, x in zip(torch.autograd.grad(contrast, a), a)]
    cam = torch.stack([x / x.max() if x.any() else x for x in torch.cat(cams).detach()])
    expected = contrast.item() + 0.7 * divergence(cam, objective.encoder.attend(torch.cat(a)), 0.4)
    assert objective(data, 0.0)[0].item() == pytest.approx(expected, abs=1e-10)


def test_a_batch_in_parts_gives_the_map_of_the_whole_batch():
    """MoCo computes a batch in parts for its batch norm; here batch norm does not use the batch."""
    parts, whole = build(moco=MocoSettings(dim=8, norm_splits=3)), build()
    assert parts(batch(), 0.0)[0].item() == pytest.approx(whole(batch(), 0.0)[0].item(), abs=1e-10)


def test_a_head_without_bias_has_gradients_that_cancel_over_positions_and_channels():
    """Euler: the embedding does not change when the map is scaled, so sum of A * dL/dA is zero."""
    objective, data = build(), batch()
    for module in objective.base.projector:
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    with attend.last_maps(objective.encoder) as maps:
        contrast, *_ = objective.base.compare(data["views"], 0.0)
    (slope,) = torch.autograd.grad(contrast, maps)
    products = slope * maps[0]
    assert products.sum((1, 2, 3)).abs().max() < 1e-13 * products.abs().sum() + 1e-15
    assert products.abs().sum() > 1e-6


def test_a_scaled_target_does_not_depend_on_the_batch_and_a_raw_one_is_flat():
    """The released code's target: with B images its softmax goes to uniform as 1 / B. Here the images repeat."""

    def excess(target: Any, times: int) -> float:
        """Of the largest share of a position over the uniform one."""
        data = {"views": batch()["views"].repeat(1, times, 1, 1, 1)}
        return build(attend=AttendSettings(4, target=target))(data, 0.0)[1]["target_peak"].item() - 1 / 9

    scaled, raw = ([excess(target, times) for times in (1, 2, 4)] for target in ("scaled", "raw"))
    assert scaled == pytest.approx([scaled[0]] * 3, rel=1e-9)
    assert scaled[0] > 0.04
    assert 0 < raw[0] < 1e-2
    assert [x / raw[0] for x in raw] == pytest.approx([1, 1 / 2, 1 / 4], rel=0.05)  # the softmax is not linear


def test_without_weight_the_loss_and_gradients_are_those_of_the_base():
    ours, base = (
        build(attend=AttendSettings(4, weight=0.0)),
        objectives.build(MocoConfig(**SMALL, moco=HEADS["moco"]), 40),
    )
    base = base.double().train()
    fix_batch_norm(base)
    base.load_state_dict({k: v for k, v in ours.base.state_dict().items() if "attend" not in k})
    a, b = ours(batch(), 0.0)[0], base(batch(), 0.0)[0]
    assert torch.equal(a, b)
    a.backward()
    b.backward()
    theirs = dict(base.named_parameters())
    for name, parameter in ours.base.named_parameters():
        if name in theirs and parameter.grad is not None:
            assert torch.equal(parameter.grad, theirs[name].grad), name


def test_detached_attention_leaves_the_encoder_to_the_base():
    objective, plain = build(attend=AttendSettings(4, detach=True)), build(attend=AttendSettings(4, weight=0.0))
    for each in (objective, plain):
        each(batch(), 0.0)[0].backward()
    ours, theirs = (dict(each.encoder.network.named_parameters()) for each in (objective, plain))
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, msg=name)
    assert objective.encoder.attend.filters.weight.grad.abs().sum() > 0


def test_the_branch_belongs_to_the_encoder_only_if_evaluations_use_it():
    attending, mean = build(), build(attend=AttendSettings(4, pool="mean"))
    assert attending.encoder.model.attend == 32
    assert attending.fit.attend is None
    assert mean.encoder.attend is None
    assert isinstance(mean.fit.attend, Attention)
    features = mean.encoder(batch()["views"][0])
    assert torch.equal(mean.encoder.describe(features), features.pooled)


# ---- the attended feature


def test_the_attended_feature_is_a_weighted_mean_of_length_one():
    maps = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    a = torch.tensor([[[0.0, 1.0, 2.0], [0.5, 4.0, 3.0]], [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]], dtype=torch.float64)
    found = attended(maps, a)
    for i in range(2):
        weights = (a[i] - a[i].min()) / 4 if i == 0 else torch.ones(2, 3)
        feature = sum(weights[y, x] * maps[i, :, y, x] for y in range(2) for x in range(3)) / 6
        torch.testing.assert_close(found[i], feature / feature.norm())


def test_the_attention_is_the_largest_of_its_filters():
    branch, maps = Attention(5, 3).double().eval(), torch.randn(2, 5, 2, 2, dtype=torch.float64)
    branch.norm.running_mean.normal_()
    weight, norm = branch.filters.weight[:, :, 0, 0], branch.norm
    found = branch(maps)
    for y in range(2):
        for x in range(2):
            z = (maps[:, :, y, x] @ weight.T - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            torch.testing.assert_close(found[:, y, x], z.clamp(min=0).amax(1))


@torch.no_grad()
def test_the_feature_of_an_image_does_not_depend_on_its_batch():
    encoder = Encoder(Model(width=8, attend=4)).double().eval()
    x = batch()["views"][0]
    whole = encoder.describe(encoder(x))
    assert whole.shape == (6, encoder.described)
    torch.testing.assert_close(encoder.describe(encoder(x[:1])), whole[:1])


# ---- SAM


def test_sam_is_its_equation_and_grad_cam_is_cam_for_a_linear_head():
    objective, data = build(SamConfig, attend=AttendSettings(4, target="raw", weight=0.24)), batch(count=1)
    a, y = last(objective, data["views"][0]), data["label"]
    w = objective.base.head.weight
    cam = torch.einsum("bc,bchw->bhw", w[y], a).clamp(min=0)
    scores = a.detach().requires_grad_()
    z = objective.base.head(scores.mean((2, 3))).gather(1, y[:, None]).sum()
    (slope,) = torch.autograd.grad(z, scores)
    grad_cam = (slope.mean((2, 3), keepdim=True) * a).sum(1).clamp(min=0)
    torch.testing.assert_close(grad_cam * 9, cam)
    cross_entropy = nn.functional.cross_entropy(objective.base.head(a.mean((2, 3))), y)
    attention = objective.encoder.attend(a)
    expected = cross_entropy.item() + 0.24 * divergence(cam, attention, 0.4)
    assert objective(data, 0.0)[0].item() == pytest.approx(expected, abs=1e-10)


def test_sam_without_weight_is_supervised_training():
    objective, data = build(SamConfig, attend=AttendSettings(4, weight=0.0)), batch(count=1)
    assert torch.equal(objective(data, 0.0)[0], objective.base(data, 0.0)[0])


def test_the_classifier_of_sam_learns_ten_times_as_fast():
    """A step of plain SGD at rate 0.1 moves the classifier by its gradient, all else by a tenth of it."""
    objective = build(SamConfig, attend=AttendSettings(4))
    optimizer = optim.build(objective, Optim(momentum=0.0, weight_decay=0.0), objective.rates)
    optim.set_rates(optimizer, step=0, total=1, warmup=0, peak=0.1)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    objective(batch(count=1), 0.0)[0].backward()
    optimizer.step()
    for name, p in objective.named_parameters():
        rate = 1.0 if name in ("base.head.weight", "base.head.bias") else 0.1
        torch.testing.assert_close(p.detach(), before[name] - rate * p.grad, msg=name)


# ---- settings and files


def test_networks_and_settings_that_do_not_fit_are_refused():
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        config = LcrConfig(model=Model(name))
        with pytest.raises(InputError, match=f"--model.backbone is {name}, whose pooled feature .*lcr needs; allowed"):
            objectives.build(config, samples=40)
    with pytest.raises(InputError, match="--compile is on; allowed: off: sam differentiates"):
        SamConfig(machine=Machine(compile=True))
    with pytest.raises(InputError, match="--moco.queue is 128"):
        LcrConfig(moco=MocoSettings(queue=128))
    for values, message in (
        ({"filters": 0}, "attend.filters"),
        ({"tau": 0.0}, "attend.tau"),
        ({"weight": -1.0}, "weight"),
    ):
        with pytest.raises(InputError, match=message):
            replace(AttendSettings(), **values)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_other_convolutional_networks_fit(name: str):
    objective = build(model=Model(name))
    loss, _ = objective(batch(n=2), 0.0)
    loss.backward()
    features = objective.encoder(batch(n=2)["views"][0])
    assert objective.encoder.describe(features).shape == (2, objective.encoder.channels[4])


def test_the_file_of_a_run_keeps_the_branch_and_an_export_leaves_it_out(tmp_path: Path, capsys):
    from fgtrain import cli
    from fgtrain.networks.saved import load
    from fgtrain.runs.rundir import RunDir

    encoder = Encoder(Model(width=8, attend=4)).eval()
    about = {"backbone": "resnet18", "width": "8", "stem": "imagenet", "size": "32", "step": "1", "method": "lcr"}
    checkpoint = RunDir(tmp_path / "run").save_checkpoint(1, encoder, about | {"attend": 4}, {}, keep=1)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load(checkpoint).describe(load(checkpoint)(x)), encoder.describe(encoder(x)))
        assert cli.main(["export", str(checkpoint), str(tmp_path / "out.safetensors")]) == 0
        exported = load(tmp_path / "out.safetensors")
        assert exported.attend is None
        assert torch.equal(exported(x).pooled, encoder(x).pooled)
    assert "The attention branch is left out" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "count"), [(32, 1), (64, 0)])
def test_a_last_map_of_one_position_is_remarked_on(size: int, count: int):
    config = LcrConfig(model=Model(width=8), views=ViewSpec(size=size), moco=MocoSettings(queue=256))
    remarks = objectives.build(config, samples=300).remarks
    assert len(remarks) == count
    assert all("single position" in line and "--views.size 32" in line for line in remarks)
