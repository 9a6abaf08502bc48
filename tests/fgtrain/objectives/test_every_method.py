"""What the trainer relies on for every method: gradients of all trained weights, --compile, seeds, soft targets."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainable import small

from fgdata.errors import InputError
from fgtrain import objectives
from fgtrain.networks.encoder import Encoder
from fgtrain.settings.common import SEEDS, Config, Model
from fgtrain.settings.comparisons import AttendSettings
from fgtrain.settings.methods import METHODS

NAMES = (
    *METHODS,
    *("cvsa-moco", "lcr-byol", "lcr-mean", "synth-pair-simsiam", "moco-sinkhorn", "foreground-saliencymix"),
)
NETWORKS = ("resnet18", "test_vit", "test_convnext", "test_efficientnet")
REFUSED = {
    *(("insloc", network) for network in NETWORKS[1:]),
    *((name, "test_vit") for name in ("lcr", "lcr-byol", "sam", "lcr-mean", "relative-location")),
    ("relative-location", "test_convnext"),
    ("lewel", "test_efficientnet"),
}
"""Networks that a method names as those it cannot use."""


MOMENTA = {
    **dict.fromkeys(("byol", "cvsa", "lcr-byol", "lewel", "dino"), 0.997),
    **dict.fromkeys(("moco", "moco-sinkhorn", "cvsa-moco", "synth-pair", "looc", "lcr", "lcr-mean"), 0.999),
    **dict.fromkeys(("insloc", "papn"), 0.999),
    "box-distill": 1.0,
}
"""Momentum of each target after a third of a run. BYOL (Grill et al. 2020, section 3.3), and DINO and LEWEL after it:
1 - 0.004 (1 + cos(pi / 3)) / 2. MoCo (He et al. 2020): 0.999 throughout. Box distillation keeps its target."""


def config_of(name: str, **changes: Any) -> Config:
    """Small settings at 32 px, with random weights."""
    changes |= {"attend": AttendSettings(4, pool="mean")} if name == "lcr-mean" else {}
    return replace(small(Path("set"), Path("run"), name.removesuffix("-mean")), init=None, **changes)


def batch_of(objective: Any) -> dict[str, Tensor]:
    """Eight random samples with every tensor that the objective asks for."""
    generator, batch = torch.Generator().manual_seed(0), {}
    for name, shape in objective.views.tensors.items():
        batch[name] = torch.randn([8 if n == -1 else n for n in shape], generator=generator)
    whole = {"label": torch.arange(8) % 4, "index": torch.arange(8)}
    for name in {"masks", "mattes"} & batch.keys():
        whole[name] = (batch[name] > 0).float()
    if "boxes" in batch:
        whole["boxes"] = torch.tensor([4.0, 6.0, 16.0, 20.0]).expand_as(batch["boxes"])
    return batch | whole


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_trained_weight_has_a_gradient_in_every_step(name: str, network: str):
    """Several processes wait for all of them."""
    model = Model(network, width=8) if network == "resnet18" else Model(network)
    refused = (name, network) in REFUSED
    with pytest.raises(InputError, match="--(model.backbone|relative.patch) is") if refused else nullcontext():
        objective = objectives.build(config_of(name, model=model), 32, 4).train()
        for progress in (0.0, 0.5):
            objective.zero_grad()
            objective(batch_of(objective), progress)[0].backward()
            objective.after_step(progress)
            without = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
            assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_a_target_moves_towards_its_network_with_the_published_momentum(name: str):
    """Online weights are 1 and targets 0, so a step leaves 1 minus the momentum in every target."""
    objective = objectives.build(config_of(name), 32, 4).train()
    targets = [p for key, p in objective.named_parameters() if "target_" in key]
    for key, parameter in objective.named_parameters():
        nn.init.constant_(parameter, "target_" not in key)
    objective.after_step(1 / 3)
    found = {round(float(x), 5) for target in targets for x in target.unique()}
    assert found == ({round(1 - MOMENTA[name], 5)} if name in MOMENTA else set())


@pytest.mark.parametrize("name", [name for name in MOMENTA if (name, "test_convnext") not in REFUSED])
def test_a_target_has_no_stochastic_depth(name: str):
    """Its features of an image are the same in every forward pass in training; those of its network are not."""
    objective = objectives.build(config_of(name, model=Model("test_convnext", drop_path=0.5)), 32, 4).train()
    encoders = {key: module for key, module in objective.named_modules() if isinstance(module, Encoder)}
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    equal = {key: torch.equal(encoder(x).pooled, encoder(x).pooled) for key, encoder in encoders.items()}
    assert equal == {key: "target_" in key for key in encoders}
    assert len(set(equal.values())) == 2


def test_papn_says_which_weights_it_does_not_train():
    objective = objectives.build(config_of("papn", model=Model("test_convnext")), 32)
    frozen = [name for name, p in objective.encoder.network.named_parameters() if not p.requires_grad]
    assert frozen == ["head.norm.weight", "head.norm.bias"]
    (line,) = objective.remarks
    assert line.startswith("not trained, ")
    assert line.endswith("head.norm.weight, head.norm.bias of test_convnext")
    assert objectives.build(config_of("papn"), 32).remarks == []


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_network_is_used_or_compiling_it_is_refused(name: str):
    machine = replace(config_of(name).machine, compile=True)
    refused = name in ("lcr", "lcr-byol", "sam", "lcr-mean", "papn", "insloc")
    with pytest.raises(InputError, match="--compile is on; allowed: off: ") if refused else nullcontext():
        objective, calls = objectives.build(config_of(name, machine=machine), 32, 4).train(), []
        for module in objective.modules():
            if isinstance(module, Encoder):
                plain = module._call_impl
                module._compiled_call_impl = lambda *x, plain=plain, **y: calls.append(1) or plain(*x, **y)
        objective(batch_of(objective), 0.0)
        assert calls


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_seed_works_in_every_step(name: str):
    config: Any = config_of(name, seed=SEEDS - 1)
    if hasattr(config, "moco"):
        config = replace(config, moco=replace(config.moco, norm_splits=2))
    objective = objectives.build(config, 32, 4).train()
    for progress in (0.0, 0.25, 0.999):
        assert objective(batch_of(objective), progress)[0].isfinite()


@pytest.mark.parametrize("name", ["moco", "cvsa-moco", "lcr", "synth-pair", "papn", "looc", "insloc"])
def test_soft_targets_work_under_the_methods_that_the_docs_name(name: str):
    config: Any = config_of(name)
    refused = name in ("looc", "insloc")
    with pytest.raises(InputError, match=f"identity, with {name}") if refused else nullcontext():
        objective = objectives.build(replace(config, moco=replace(config.moco, targets="sinkhorn")), 32)
        assert objective(batch_of(objective), 0.0)[0].isfinite()
