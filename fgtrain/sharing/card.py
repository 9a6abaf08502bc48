"""The README.md of a model on the hub: how to load it, how it was trained, what it reached."""

from collections.abc import Sequence
from typing import Any

from fgdata.errors import printable

from ..evaluate import compare
from ..networks.encoder import Encoder
from ..runs.checkpoint import Checkpoint

FIGURES = ("accuracy", "rank1", "map", "maxboxacc", "maxboxaccv2")
"""What the table shows of a result, as far as it has it: fractions of one."""


def model_card(
    name: str,
    checkpoint: Checkpoint,
    encoder: Encoder,
    settings: dict[str, Any],
    results: Sequence[dict[str, Any]],
    licence: str | None,
) -> str:
    """The card as Markdown, with the hub's keys in front.

    settings: by the names of their flags; {} if unknown. results: lines of results.jsonl for this checkpoint.
    """
    backbone, size = checkpoint.model.backbone, checkpoint.size
    lines = [
        *("---", "library_name: timm", "pipeline_tag: image-feature-extraction", f"license: {licence or 'unknown'}"),
        *("tags:", "- timm", "- fgtrain", "---", "", f"# {name.rpartition('/')[2]}", ""),
        f"{backbone}, {checkpoint.step:,} training steps at {size} px, without a classifier.",
        *([] if licence else ["The licence of these weights is not stated."]),
        *("", "```python", "import timm", ""),
        f"network = timm.create_model({f'hf-hub:{name}'!r}, pretrained=True).eval()",
        f"features = network(images)  # (B, 3, {size}, {size}) -> (B, {encoder.dim})",
        "```",
        "",
        f"Images are RGB in [0, 1], minus the mean {list(encoder.mean)}, divided by the std {list(encoder.std)}.",
        "",
    ]
    if checkpoint.model.attend or checkpoint.model.parts:
        lines += ["The attention branch or parts of the run are left out; results below are those with them.", ""]
    lines += ["## Results", "", *_table(results)] if results else ["No evaluation of it is recorded.", ""]
    if settings:
        lines += ["## Settings", "", "```"]
        lines += [f"{key}: {printable(str(value))}" for key, value in settings.items() if value is not None]
        lines += ["```", ""]
    return "\n".join(lines)


def _table(results: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each figure of each result."""
    lines = ["| evaluation | settings | figure | value | chance | n | shard set |", "|---|---|---|---|---|---|---|"]
    for result in results:
        names = (*compare.SETTINGS.get(str(result.get("evaluation")), ()), "size")
        settings = ", ".join(f"{name} {result[name]}" for name in names if name in result)
        chance = f"{result['chance']:.1%}" if isinstance(result.get("chance"), float) else ""
        digest = str(result.get("digest", ""))[:12]
        for figure in (key for key in FIGURES if isinstance(result.get(key), float)):
            value, n = f"{result[figure]:.1%}", result.get("n", "")
            cells = (result.get("evaluation"), settings, figure, value, chance, n, digest)
            lines.append("| " + " | ".join(printable(str(cell)).replace("|", "/") for cell in cells) + " |")
    return [*lines, "", "Of one training run. The set is named by the first digits of its digest.", ""]
