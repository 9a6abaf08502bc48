"""Settings of methods that cannot work are refused."""

from collections.abc import Callable
from typing import Any

import pytest

from fgdata.errors import InputError
from fgdata.views import ViewSpec
from fgtrain import objectives
from fgtrain.settings.common import Model
from fgtrain.settings.methods import (
    AlignSettings,
    ByolSettings,
    CvsaConfig,
    MocoConfig,
    MocoSettings,
    SimclrSettings,
    SimsiamSettings,
)


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
