"""README.md of a shard set on the Hugging Face hub: how to load it, how its boxes were made, how good they are."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ..datasets.terms import terms_of
from ..errors import counted, printable
from ..report.agreement import agree
from ..report.score import THRESHOLDS, Scored, describe_detectors, table
from ..saliency import row_of
from ..shards.manifest import describe_objective
from ..shards.reader import ShardSet

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def dataset_card(shards: ShardSet, scored: Scored, *, name: str, licence: str, repository: str | None) -> str:
    """The card as Markdown, with the hub's keys in front.

    scored: what `read_boxes` returned for the set. name: its title. licence: by the hub's name. repository: ORG/NAME of
    the set on the hub; None leaves out how to load it from there.
    """
    dataset = shards.manifest["dataset"]["name"]
    total = sum(shards.splits.values())
    splits = ", ".join(f"{split} {count:,}" for split, count in shards.splits.items())
    lines = [
        *_front_matter(shards, total, licence),
        *(f"# {_text(name)}", ""),
        f"{counted(total, 'image')} of the dataset {_text(dataset)} in {len(shards.classes):,} classes ({splits}), "
        f"each with the box of its object by {', '.join(shards.detectors)}. The images are in WebDataset tars.",
        *("", "## Load it", "", *_loading(shards, repository)),
        *("## Files", "", *_files(shards)),
        *("## Boxes", "", *_boxes(shards), *_quality(shards, scored)),
        *("## Licence", "", f"Source of the images: {terms_of(dataset).words}.", ""),
        *(["The licence of this set is not stated.", ""] if licence == "unknown" else []),
        f"The set's digest is `{shards.manifest['digest']}`; it covers the sha256 of every tar.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(shards: ShardSet, total: int, licence: str) -> list[str]:
    """The hub's keys: a config with a split for each split, so that `datasets` reads the right tars."""
    size = next((words for most, words in _SIZES if total < most), "10M<n<100M")
    lines = ["---", f"license: {licence}", "task_categories:", "- image-classification"]
    lines += ["size_categories:", f"- {size}", "tags:", *(f"- {tag}" for tag in ("webdataset", "fgdata", "saliency"))]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in shards.splits:
        lines += [f"  - split: {split.replace('-', '_')}", f"    path: {split}-*.tar"]
    return [*lines, "---", ""]


def _loading(shards: ShardSet, repository: str | None) -> list[str]:
    split, detector = next(iter(shards.splits)), shards.detectors[0]
    source = f'"{repository}"' if repository else '"FOLDER"'
    lines = ["```python", "from datasets import load_dataset", ""]
    lines += [f'for row in load_dataset({source}, split="{split}", streaming=True):']
    lines += [f'    image, label, box = row["jpg"], row["cls"], row["{detector}.npy"]', "```", ""]
    lines += ["A box is (left, top, width, height), each in [0, 1] of the image's width or height.", ""]
    folder = (repository or "set").rpartition("/")[2]
    fetch = [f"fgdata pull hf://datasets/{repository} shards/{folder}"] if repository else []
    return [
        *lines,
        "With fgdata, which makes views around the boxes:",
        "",
        "```",
        *fetch,
        f"fgtrain run cvsa --data.shards shards/{folder}",
        "```",
        "",
    ]


def _files(shards: ShardSet) -> list[str]:
    tars = sum(len(split["shards"]) for split in shards.manifest["splits"].values())
    rows = [
        (
            "`SPLIT-NNNNNN.tar`",
            f"{counted(tars, 'tar')}: `KEY.jpg`, `KEY.cls`, `KEY.DETECTOR.npy`, `KEY.json` for each image",
        ),
        ("`SPLIT-NNNNNN.idx`", "where each of them is in its tar (the index of DALI's reader)"),
        ("`manifest.json`", "every setting, count and sha256"),
        *([("`maps.h5`", "the saliency maps")] if "maps" in shards.manifest else []),
        ("`metadata.parquet`", "a row for each image: key, id, class, split, boxes, scores"),
        ("`croissant.json`", "this description for programs (MLCommons Croissant 1.0)"),
    ]
    return _table(("file", "content"), rows)


def _boxes(shards: ShardSet) -> list[str]:
    """How they were made."""
    rows = []
    for name, settings in shards.manifest["detectors"].items():
        row, tau = row_of(name), settings.get("tau", "")
        trained_on = settings.get("trained_on") or (row.trained_on if row else "unknown")
        rows.append(
            (
                f"`{name}`",
                row.about if row else "",
                tau if "tau" not in shards.manifest["objective"] else "",
                trained_on,
            )
        )
    versions = ", ".join(f"{name} {version}" for name, version in shards.manifest["versions"].items())
    return [
        *_table(("box", "made by", "tau", "trained on"), rows),
        f"From map to box: {_text(describe_objective(shards.manifest))}. Made by {_text(versions)}.",
        "",
    ]


def _quality(shards: ShardSet, scored: Scored) -> list[str]:
    """Scores against the ground truth; without one, how well the detectors agree."""
    if not scored.has_truth:
        agreement = agree(scored)
        pairs = [(f"`{a}`, `{b}`", f"{value:.3f}") for (a, b), value in agreement.pairs.items()]
        lines = ["There are no ground-truth boxes.", ""]
        return lines + (_table(("boxes by", "mean IoU of the two"), pairs) if pairs else [])
    rows, scores = [], table(scored, describe_detectors(shards))
    for name, row in (scores["detectors"] | scores["baselines"]).items():
        title = {"whole": "whole image", "centred": "centred 70 % box"}.get(name, f"`{name}`")
        rows.append((title, *(f"{row[key]:.3f}" for key in ("mean_iou", *THRESHOLDS)), f"{row['n']:,}"))
    head = ("box", "mean IoU", "IoU >= 0.5 (CorLoc)", "IoU >= 0.7", "IoU >= 0.9", "n")
    return ["Against the ground-truth boxes, of which the best match counts:", "", *_table(head, rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(_text, row))} |" for row in rows), ""]


def _text(value: Any) -> str:
    """A value as one line of Markdown without markup of its own: names come from the set's manifest."""
    return (
        html.escape(" ".join(printable(str(value)).split()), quote=False).replace("|", "&#124;").replace("[", "&#91;")
    )
