"""What several commands take and print."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import counted
from ..stores.flag import Local, Place
from ..stores.place import Url

if TYPE_CHECKING:
    from ..building.rewrite import Reboxed

RECIPE_BATCH = 256
"""Samples per step of the recipe cvsa, and so the least number of train images that it takes."""
LARGE_SAMPLE = 50_000
"""Bytes of a sample from which a build mentions --max-side; at 384 pixels a photograph takes fewer."""
Shards = Annotated[Place, tyro.conf.Positional]
Folder = Annotated[Local, tyro.conf.Positional]
Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "coreml"]


def print_next(shards: Path | Url, manifest: dict) -> None:
    """Prints the remarks on a finished set, and the commands that show it and train on it."""
    for line in remarks(manifest):
        print(f"  {line}")
    folder = shlex.quote(str(shards))
    print(f"View it:     fgdata show {folder}")
    if (train := manifest["splits"].get("train", {}).get("samples", 0)) >= 2:
        smaller = "" if train >= RECIPE_BATCH else f" --data.batch-size {1 << (train.bit_length() - 1)}"
        print(f"Train on it: fgtrain run cvsa --data.shards {folder}{smaller}")


def explain_replacement() -> None:
    """Tells a user whose shell is inside a set that was replaced how to enter the new folder: this process is there."""
    print(f"The folder was replaced, and your shell is in the old one. Run: cd {shlex.quote(str(Path.cwd()))}")


def explain_outdated(done: "Reboxed") -> None:
    """Says which files about the old boxes a set has lost, and whether its card still describes them."""
    folder = shlex.quote(str(done.path))
    if done.removed:
        program = "show" if {*done.removed} == {"report.html"} else "card"
        again = "" if done.old_card else f" Write them again: fgdata {program} {folder}"
        print(f"Removed {', '.join(done.removed)}, which described the old boxes.{again}")
    if done.old_card:
        card = shlex.quote(str(done.old_card))
        print(
            f"{done.old_card} describes the old boxes. Edit it, or write a new one: rm {card} && fgdata card {folder}"
        )


def total_of(manifest: dict) -> str:
    counts = {name: split["samples"] for name, split in manifest["splits"].items()}
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    classes = len(manifest["dataset"].get("classes", ()))
    total = counted(sum(counts.values()), "sample")
    total += f" of {classes:,} class{'' if classes == 1 else 'es'}" if classes else ""
    return total + (f" ({parts})" if parts else "")


def remarks(manifest: dict) -> list[str]:
    """-> remarks on a finished build: skipped images, clipped boxes, re-encoded images, fallbacks, large images."""
    from ..shards.manifest import REENCODED, list_shards

    lines = []
    if manifest["skipped"]:
        lines.append(f"{counted(len(manifest['skipped']), 'unusable image')} skipped; manifest.json lists them")
    if manifest["boxes_clipped"]:
        clipped = counted(manifest["boxes_clipped"], "image")
        lines.append(f"{clipped} had ground-truth boxes that extended beyond the image; these were clipped")
    if manifest["reencoded"]:
        encoded = counted(manifest["reencoded"], "image")
        lines.append(f"{encoded} re-encoded as JPEG ({REENCODED}, or larger than --max-side)")
    fallbacks = {name: counts for name, counts in manifest["fallbacks"].items() if name != "whole"}  # it has no others
    for name, counts in fallbacks.items():
        lines += [
            f"{counted(count, 'image')} got the whole-image box from {name}: {kind} map"
            for kind, count in counts.items()
        ]
    tars = list_shards(manifest)
    size = sum(tar["bytes"] for tar in tars) / max(1, sum(tar["samples"] for tar in tars))
    if manifest["images"]["max_side"] is None and size > LARGE_SAMPLE:
        lines.append(
            f"the images have their original size, {size / 1000:,.0f} kB on average; --max-side 384 makes a smaller "
            "set that is read and decoded faster (docs/build.md)"
        )
    return lines
