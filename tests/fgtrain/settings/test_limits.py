"""Every number among the settings has a least and a largest value, and training can use both."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch

from fgdata.errors import InputError
from fgtrain.evaluate.subject import open_encoder
from fgtrain.objectives.losses import attention, info_nce, nt_xent, unit
from fgtrain.settings import evaluations, methods, pictures, studying
from fgtrain.settings.common import SEEDS, Model

LATER = {"k", "size", "rows"}
"""Flags of evaluations and pictures that are compared with the shard set or the network when it is known."""
TINY = ("tau", "temperature", "std", "sigma", "aspect", "scale")
"""Settings that something is divided by: above 0 is not enough."""


def numbers(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The place of every number in a settings object, and its value; for a pair the place is that of the pair."""
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, (*path, field.name))
        elif {int, float} & {hints[field.name], *get_args(hints[field.name])} and not isinstance(value, bool):
            yield (*path, field.name), value


def changed(settings: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return replace(settings, **{name: changed(getattr(settings, name), tuple(rest), value) if rest else value})


OBJECTS = [kind() for kind in methods.METHODS.values()]
OBJECTS += [evaluations.Knn(), evaluations.Linear(), evaluations.Finetune(), evaluations.Localization()]
OBJECTS += [pictures.Views(), evaluations.All(), studying.Study("cvsa-table-1", seeds=(0,))]
PLACES = {
    ".".join(path): (settings, path, value)
    for settings in OBJECTS
    for path, value in numbers(settings)
    if (path[-1] not in LATER and path[0] != "model") or isinstance(settings, methods.Config)
}


def test_the_settings_are_found():
    assert {"optim.lr", "views.std", "moco.queue", "machine.threads", "seed", "fractions", "pair.tau"} <= PLACES.keys()
    assert len(PLACES) > 60


@pytest.mark.parametrize("name", PLACES)
def test_a_number_has_a_least_and_a_largest_value(name: str):
    settings, path, value = PLACES[name]
    integer = not isinstance(value, tuple | float)
    extremes: list[Any] = [-(10**31), 10**31] if integer else [-1e300, 1e300, math.inf, -math.inf, math.nan]
    if path[-1] in TINY:
        extremes += [0.0, 1e-30] if "temperature" not in path else [1e-30]
    for extreme in extremes:
        given = tuple(extreme for _ in value) if isinstance(value, tuple) else extreme
        with pytest.raises(InputError, match=rf"{path[-1].replace('_', '.')} is .*; allowed: (.*\d|a finite number)"):
            changed(settings, path, given)


def test_losses_and_gradients_are_finite_at_the_limits():
    """In float32, with a positive pair that is opposite and a negative that is equal."""
    rows = unit(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])).requires_grad_()
    for tau in (0.001, 1000):
        assert methods.MocoSettings(tau=tau).tau == tau
        for loss in (info_nce(rows, -rows.detach(), rows.detach(), tau), nt_xent(rows, -rows, tau)):
            (gradient,) = torch.autograd.grad(loss, rows)
            assert loss.isfinite()
            assert gradient.isfinite().all()
    for scale in (0.001, 1000):
        assert methods.AlignSettings(scale=scale).scale == scale
        maps = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        a = attention(maps, -maps, "cosine", scale)
        (gradient,) = torch.autograd.grad(a.amax(2).sigmoid().sum(), maps)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("model", [Model(width=7), Model(width=10**12), Model(drop_path=1.0)])
def test_the_network_of_given_weights_has_the_same_limits(model: Model):
    messages = []
    for use in (
        lambda: methods.ByolConfig(model=model),
        lambda: open_encoder(evaluations.Knn(weights="a.pth", model=model)),
    ):
        with pytest.raises(InputError, match=r"--model\.(width|drop-path) is .*; allowed: .*\d") as error:
            use()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("seed", [-1, SEEDS])
def test_a_seed_out_of_range_has_one_message(seed: int):
    messages = set()
    for make in (methods.ByolConfig, evaluations.Linear, evaluations.Localization, pictures.Views):
        with pytest.raises(InputError) as error:
            make(seed=seed)
        messages.add(str(error.value))
    with pytest.raises(InputError) as error:
        evaluations.Finetune(seed=seed, trials=1)
    assert messages | {str(error.value)} == {f"--seed is {seed}; allowed: 0 to 2^64 - 1."}


def test_every_trial_has_a_seed():
    assert evaluations.Linear(seed=SEEDS - 3, trials=3).seed == SEEDS - 3
    with pytest.raises(InputError, match=r"--seed is \d+; allowed: 0 to 2\^64 - 3, since every trial adds 1"):
        evaluations.Linear(seed=SEEDS - 2, trials=3)
