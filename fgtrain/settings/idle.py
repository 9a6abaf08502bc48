"""Settings that have no effect because another setting turns them off. A run prints them before its first step."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .common import Config
from .file import differences, relevant
from .methods import PairSettings


@dataclass(frozen=True)
class Rule:
    """When settings have an effect. A flag without its last part, such as `moco`, stands for all of that group."""

    flags: tuple[str, ...]
    active: Callable[[Any], bool]
    needs: str


def _crop(*names: str) -> Callable[[Any], bool]:
    return lambda config: config.views.crop in names


def _any(chance: float | tuple[float, ...]) -> bool:
    return any(chance) if isinstance(chance, tuple) else chance > 0


UNPAIRED = ("alpha", "nu")
"""Settings of synthesized pairs that have an effect without a pair loss."""

RULES = (
    Rule(("init", "init-heads"), lambda c: c.extend is None, "without --extend, which keeps all weights"),
    Rule(("moco",), lambda c: getattr(c, "base", "moco") == "moco", "with --base moco"),
    Rule(("byol",), lambda c: getattr(c, "base", "byol") == "byol", "with --base byol"),
    Rule(("simsiam",), lambda c: getattr(c, "base", "simsiam") == "simsiam", "with --base simsiam"),
    Rule(("moco.targets-eps",), lambda c: c.moco.targets == "sinkhorn", "with --moco.targets sinkhorn"),
    Rule(("align.scale",), lambda c: c.align.normalize == "cosine", "with --align.normalize cosine"),
    Rule(
        ("pair.eps-gradcam",),
        lambda c: c.pair.perturb in ("both", "gradcam", "random"),
        "with --pair.perturb both, gradcam or random",
    ),
    Rule(
        ("pair.eps-variance", "pair.kappa-quantile", "pair.kappa", "pair.bank", "pair.bank-normalize"),
        lambda c: c.pair.perturb in ("both", "low-variance"),
        "with --pair.perturb both or low-variance",
    ),
    Rule(("pair.kappa",), lambda c: c.pair.kappa_quantile == 0, "with --pair.kappa-quantile 0"),
    Rule(
        tuple(f"pair.{field.name.replace('_', '-')}" for field in fields(PairSettings) if field.name not in UNPAIRED),
        lambda c: c.pair.nu > 0,
        "with --pair.nu above 0",
    ),
    Rule(("mix.alpha", "mix.per"), lambda c: c.mix.kind != "none", "with --mix.kind mixup, cutmix or saliencymix"),
    Rule(
        ("model.zero-init-residual",),
        lambda c: c.model.backbone in ("resnet18", "resnet50"),
        "with --model.backbone resnet18 or resnet50",
    ),
    Rule(
        ("reconstruct.lr", "reconstruct.batch-size"),
        lambda c: c.reconstruct.epochs > 0 and c.decoder is None,
        "with --reconstruct.epochs above 0 and without --decoder",
    ),
    Rule(("dino.teacher-tau-start",), lambda c: c.dino.teacher_tau_epochs > 0, "with --dino.teacher-tau-epochs"),
    Rule(("views.patch-area",), _crop("saliency-swap"), "with --views.crop saliency-swap"),
    Rule(
        ("views.paste-area",),
        lambda c: c.views.crop == "matte-paste" or (c.views.crop == "saliency-swap" and c.data.backgrounds),
        "with --views.crop matte-paste, or saliency-swap with --data.backgrounds",
    ),
    Rule(("views.matte", "views.matte-grey"), _crop("matte-paste"), "with --views.crop matte-paste"),
    Rule(("views.crop-box", "views.crop-alpha"), _crop("contrastive"), "with --views.crop contrastive"),
    Rule(
        ("own-boxes",),
        lambda c: c.views.crop == "contrastive" and c.views.crop_box == "given",
        "with --views.crop contrastive --views.crop-box given",
    ),
    Rule(
        ("views.area",),
        lambda c: c.views.crop not in ("saliency-swap", "object", "centre"),
        "with a --views.crop that draws it",
    ),
    Rule(("views.aspect",), lambda c: c.views.crop not in ("object", "centre"), "with a --views.crop that draws it"),
    Rule(
        ("views.brightness", "views.contrast", "views.saturation", "views.hue"),
        lambda c: c.views.jitter > 0,
        "with --views.jitter above 0",
    ),
    Rule(
        ("views.sigma",),
        lambda c: _any(c.views.blur) or (c.views.local.count > 0 and c.views.local.blur > 0),
        "with --views.blur above 0",
    ),
    Rule(
        ("views.strength",),
        lambda c: c.views.jitter > 0 or c.views.grayscale > 0 or _any(c.views.blur),
        "with --views.jitter, --views.grayscale or --views.blur above 0",
    ),
    Rule(
        ("views.local.size", "views.local.area", "views.local.blur", "views.local.inside-box"),
        lambda c: c.views.local.count > 0,
        "with --views.local.count above 0",
    ),
    Rule(("optim.momentum",), lambda c: c.optim.name != "adamw", "with --optim.name sgd or lars"),
    Rule(("optim.clip-by",), lambda c: c.optim.clip > 0, "with --optim.clip above 0"),
    Rule(
        ("data.backgrounds",),
        lambda c: c.views.pastes or c.views.lent or "backgrounds" in c.needs,
        "with a --views.crop that pastes",
    ),
)


def describe_idle(config: Config) -> list[str]:
    """One line for each setting that differs from the method's default and has no effect, and why."""
    changed = [name.replace("_", "-") for name in differences(relevant(type(config)()), relevant(config))]
    lines = []
    for rule in RULES:
        own = [name for flag in rule.flags for name in changed if name == flag or name.startswith(f"{flag}.")]
        if own and not rule.active(config):
            lines += [f"--{name} has no effect: only {rule.needs}" for name in own]
    return list(dict.fromkeys(lines)) + _describe_contradictions(config)


def _describe_contradictions(config: Any) -> list[str]:
    """Settings that have an effect which is hardly meant."""
    lines, local = [], config.views.local
    if local.count and local.size > config.views.size:
        lines.append(
            f"the local crops ({local.size} px) are larger than the global ones ({config.views.size} px); "
            f"for half of their side: --views.local.size {max(8, config.views.size // 2)}"
        )
    if hasattr(config, "dino") and config.dino.freeze_epochs >= config.epochs:
        lines.append(
            f"--dino.freeze-epochs {config.dino.freeze_epochs:g} is the whole run of {config.epochs}: "
            "the last layer never learns"
        )
    return lines
