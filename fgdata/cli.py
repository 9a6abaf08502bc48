"""The `fgdata` command: build-shards, rebox, add, check, score, show, list."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .errors import counted, run_command

ShardFolder = Annotated[Path, tyro.conf.Positional]


def build_shards(
    dataset: str = "drawn",
    root: Path | None = None,
    out: Path | None = None,
    saliency: tuple[str, ...] = ("rbd",),
    objective: Literal["max-excess", "max-mean"] = "max-excess",
    tau: float | None = None,
    k: float | None = None,
    min_area: float | None = None,
    grid: int = 64,
    max_side: int | None = None,
    quality: int = 90,
    on_bad_image: Literal["stop", "skip"] = "stop",
    shard_samples: int = 256,
    jobs: int | None = None,
    engine: Literal["local", "ray"] = "local",
    keep_maps: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    classes: int | None = None,
    images_per_class: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    level: Literal["variant", "family", "manufacturer"] | None = None,
    class_list: Path | None = None,
    download: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Run saliency detectors over a dataset and write WebDataset shards that carry the boxes.

    Stopped at any point and called again, it goes on behind the last whole shard; when the set is complete it says so.

    Args:
        dataset: Which dataset; `fgdata list` shows them with their layouts.
        root: The dataset's folder. Default: $FGDATA_ROOT/<dataset>, else data/<dataset>.
        out: The folder of the shard set. Default: shards/<dataset>.
        saliency: One or more detectors; `fgdata list` shows them. gt is the dataset's own box.
        objective: How a box is chosen from a saliency map. max-excess: the box whose saliency most exceeds tau times
            the map's mean, summed over its area. max-mean: the highest mean saliency among boxes of a least area.
        tau: For max-excess: smaller gives larger boxes; 0 to 100. Default: 0.75.
        k: For max-mean: the least area, as a multiple of the map's effective area (sum S)^2 / sum S^2. Default: 2.
        min_area: For max-mean, instead of k: the least area as a share of the image, in (0, 1].
        grid: Cells per side of the grid on which all boxes are compared, 2 to 256.
        max_side: Re-encode images whose longer side is larger to this many pixels. Default: the original JPEG bytes.
        quality: JPEG quality of re-encoded images, 1 to 100; their colour is kept at half the resolution (4:2:0).
        on_bad_image: stop names the first image that cannot be read or whose box lies outside it, and stops; skip
            leaves such images out and lists them in the manifest. A JPEG of which only the inside is damaged decodes,
            here as elsewhere, to a picture that is partly wrong: no decoder can tell for sure.
        shard_samples: Samples in a shard.
        jobs: Worker processes, one thread each. Default: all cores.
        engine: Where the shards are built: in local processes, or on a Ray cluster.
        keep_maps: Store the saliency maps too, in maps.h5, so that `fgdata rebox` can solve other boxes from them.
        classes: drawn only: number of classes.
        images_per_class: drawn only: number of images of each class, test included.
        size: drawn only: longer side in pixels.
        seed: drawn only: another seed paints other birds.
        level: aircraft only: what a class is. Default: variant.
        class_list: imagenet100 only: the file with the classes. Default: imagenet100.txt in the root.
        download: First fetch the dataset into the root, when its publisher offers it freely and it is not there yet.
    """
    from . import datasets
    from .boxes.objective import Objective
    from .building import build
    from .cores import available_cores

    out = out or Path("shards") / dataset
    options = {"classes": classes, "images_per_class": images_per_class, "size": size, "seed": seed}
    options |= {"level": level, "class_list": class_list}
    if download:
        from .datasets.fetch import download as fetch

        fetch(dataset, root)
    known = datasets.read(dataset, root, **{name: value for name, value in options.items() if value is not None})
    for line in known.note.splitlines():
        print(f"{dataset}: {line}")
    workers = available_cores() if jobs is None else jobs
    done = build.build(
        known,
        out,
        saliency=saliency,
        objective=Objective(objective, grid=grid).override(tau=tau, k=k, min_area=min_area),
        max_side=max_side,
        quality=quality,
        on_bad_image=on_bad_image,
        shard_samples=shard_samples,
        workers=workers,
        engine=engine,
        keep_maps=keep_maps,
    )
    total = _total(done.manifest)
    if done.was_complete:
        print(f"{out} is already complete: {total}. Nothing was done.")
        return 0
    now = f"{done.written:,} of them built now" if done.written else "all built before; the set was finished now,"
    print(f"{out}: {total}, {now} in {done.seconds:,.1f} s")
    for line in _remarks(done.manifest):
        print(f"  {line}")
    folder = shlex.quote(str(out))
    print(f"Look at it:  fgdata show {folder}\nTrain on it: fgtrain run cvsa --data.shards {folder}")
    return 0


def rebox(
    shards: ShardFolder,
    objective: Literal["max-excess", "max-mean"] | None = None,
    tau: float | None = None,
    k: float | None = None,
    min_area: float | None = None,
    grid: int | None = None,
    out: Path | None = None,
    jobs: int | None = None,
) -> int:
    """Solve the boxes of a shard set again from its kept maps: no detector runs, no image is encoded again.

    The set is replaced in one step when all is done; a stop at any moment leaves the old set or the new one. Needs a
    set built with --keep-maps. Do not do this while a training run reads the set.

    Args:
        shards: The folder of the shard set.
        objective: How a box is chosen from a saliency map; see `fgdata build-shards --help`. Default: the set's;
            another than that begins with its own tau or k.
        tau: For max-excess: smaller gives larger boxes; 0 to 100. Default: the set's.
        k: For max-mean: the least area, as a multiple of the map's effective area (sum S)^2 / sum S^2. Default: the
            set's.
        min_area: For max-mean, instead of k: the least area as a share of the image, in (0, 1]. Default: the set's.
        grid: Cells per side of the grid on which all boxes are compared, 2 to 256. Default: the set's.
        out: Write the new set to this folder and leave the old one alone. Default: in place.
        jobs: Worker processes, one thread each. Default: all cores.
    """
    from .building.rewrite import objective_of
    from .building.rewrite import rebox as rebox_set
    from .cores import available_cores

    wanted = objective_of(shards).override(name=objective, tau=tau, k=k, min_area=min_area, grid=grid)
    done = rebox_set(shards, wanted, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: boxes of {_total(done.manifest)} solved again in {done.seconds:,.1f} s")
    print(f"Compare them: fgdata score {shlex.quote(str(done.path))}")
    return 0


def add(shards: ShardFolder, saliency: str, out: Path | None = None, jobs: int | None = None) -> int:
    """Add one detector's boxes to a shard set, from its own images; everything else stays as it is.

    The set is replaced in one step when all is done, as by `fgdata rebox`. The box objective is the set's own.

    Args:
        shards: The folder of the shard set.
        saliency: The detector; `fgdata list` shows them.
        out: Write the new set to this folder and leave the old one alone. Default: in place.
        jobs: Worker processes, one thread each. Default: all cores.
    """
    from .building.rewrite import add as add_to_set
    from .cores import available_cores

    done = add_to_set(shards, saliency, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: boxes by {saliency} added to {_total(done.manifest)} in {done.seconds:,.1f} s")
    print(f"Compare them: fgdata score {shlex.quote(str(done.path))}")
    return 0


def check(shards: ShardFolder) -> int:
    """Account for every byte of a shard set; exit with 1 and name the damaged files if any.

    Args:
        shards: The folder of the shard set.
    """
    from .files.swap import left_behind
    from .progress import Progress
    from .shards.check import check as check_set
    from .shards.manifest import read_manifest

    total = sum(split["samples"] for split in read_manifest(shards)["splits"].values())
    with Progress("Checking", total) as progress:
        manifest, faults = check_set(shards, progress.advance)
    for line in left_behind(shards.resolve().parent, shards.resolve().name):
        print(line)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(
            f"{shards} is NOT whole: {counted(len(faults), 'fault')}. Restore the files named above, or build the set "
            "again.",
            file=sys.stderr,
        )
        return 1
    tars = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    size = sum(shard["bytes"] + shard["index_bytes"] for shard in tars) + manifest.get("maps", {}).get("bytes", 0)
    said = f"{counted(total, 'sample')} in {counted(len(tars), 'tar')}, {size / 1e6:,.1f} MB"
    print(f"{shards} is whole: {said}, every sha256 as written.")
    return 0


def score(shards: ShardFolder, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> int:
    """Compare a shard set's boxes with the ground truth: mean IoU and CorLoc of every detector and two baselines.

    Args:
        shards: The folder of the shard set.
        as_json: Print JSON instead of a table.
    """
    from .report.score import score as score_set

    found = score_set(shards)
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("box", "mean IoU", "CorLoc", "n", title=f"Boxes of {shards} against the ground truth")
    for name, row in found["detectors"].items():
        table.add_row(name, f"{row['mean_iou']:.3f}", f"{row['corloc']:.3f}", f"{row['n']:,}")
    table.add_section()
    for name, row in found["baselines"].items():
        said = {"whole": "whole image", "centred": "centred 70 % box"}[name]
        table.add_row(said, f"{row['mean_iou']:.3f}", f"{row['corloc']:.3f}", f"{row['n']:,}")
    Console(markup=False, emoji=False).print(table)
    return 0


def show(shards: ShardFolder, out: Path | None = None, samples: int = 96) -> int:
    """Write report.html: what is in a shard set, boxes drawn on images, the score, the slowest and the worst.

    Args:
        shards: The folder of the shard set.
        out: The file to write. Default: report.html in the shard set's folder.
        samples: Images to show; 1 to 1,000. The numbers are of all samples.
    """
    from .report.page import write_report

    path = write_report(shards, out or shards / "report.html", samples)
    print(f"Wrote {path}: one file, open it in any browser.")
    return 0


def list_all(folder: Path = Path("shards")) -> int:
    """List datasets (layout, size, where to get them, found or not), detectors, and shard sets.

    Args:
        folder: Where shard sets are looked for.
    """
    from .report.listing import print_listing

    print_listing(folder)
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 for damage found, 2 for input that cannot be used."""
    commands = {
        "build-shards": build_shards,
        "rebox": rebox,
        "add": add,
        "check": check,
        "score": score,
        "show": show,
        "list": list_all,
    }

    def command() -> int:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="fgdata", description="Saliency boxes cached with the data.", args=args
        )

    words = sys.argv[1:] if args is None else list(args)
    when_stopped = {
        "build-shards": "What is finished is kept: the same command goes on behind the last finished shard.",
        "rebox": "The shard set is as it was.",
        "add": "The shard set is as it was.",
    }
    return run_command("fgdata", command, when_stopped.get(words[0] if words else "", ""))


def _total(manifest: dict) -> str:
    counts = {name: split["samples"] for name, split in manifest["splits"].items()}
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{counted(sum(counts.values()), 'sample')} ({parts})"


def _remarks(manifest: dict) -> list[str]:
    """What a person should know of a finished build."""
    lines = []
    if manifest["skipped"]:
        lines.append(f"{counted(len(manifest['skipped']), 'unusable image')} skipped; manifest.json lists them")
    if manifest["boxes_clipped"]:
        clipped = counted(manifest["boxes_clipped"], "image")
        lines.append(f"{clipped} had ground-truth boxes that overran their borders; clipped")
    if manifest["reencoded"]:
        encoded = counted(manifest["reencoded"], "image")
        lines.append(f"{encoded} re-encoded as JPEG (not plain JPEG, or larger than --max-side)")
    for name, counts in manifest["fallbacks"].items():
        lines += [
            f"{counted(count, 'image')} got the whole-image box from {name}: {kind} map"
            for kind, count in counts.items()
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
