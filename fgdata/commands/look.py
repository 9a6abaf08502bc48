"""check, score, show, list; and fetch-model, which list advises"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError, counted
from ..stores.flag import MaybePlace, Place
from ..stores.place import Url, need_path
from .common import Shards


def check(
    shards: Shards,
    duplicates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    format: Literal["table", "csv", "json"] = "table",
) -> int:
    """Check every byte of a shard set. If files are damaged, name them and exit with 1.

    Args:
        shards: The folder of the shard set, or its URL.
        duplicates: Also decode all images and name the test images that are also in train, as they are or rescaled,
            recompressed or mirrored. Pairs within a split are counted. The exit code is 0 even if there are any.
        format: How these pairs are printed. csv and json print nothing else on standard output.
    """
    from ..files.swap import list_leftovers
    from ..progress import Progress
    from ..shards.check import check as check_set
    from ..shards.manifest import list_shards, read_manifest
    from ..shards.rebuild import how_to_rebuild

    if format != "table" and not duplicates:
        raise InputError(f"--format {format} has no effect without --duplicates. Omit it, or add --duplicates")
    remarks = sys.stdout if format == "table" else sys.stderr
    total = sum(split["samples"] for split in read_manifest(shards)["splits"].values())
    with Progress("Checking", total) as progress:
        manifest, faults = check_set(shards, progress.advance)
    if isinstance(shards, Path):
        for line in list_leftovers(shards.resolve().parent, shards.resolve().name):
            print(line, file=remarks)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        remedy = f"Restore the files named above, or {how_to_rebuild(shards, manifest)}"
        print(f"{shards} is damaged: {counted(len(faults), 'fault')}. {remedy}", file=sys.stderr)
        return 1
    tars = list_shards(manifest)
    size = sum(shard["bytes"] + shard["index_bytes"] for shard in tars) + manifest.get("maps", {}).get("bytes", 0)
    contents = f"{counted(total, 'sample')} in {counted(len(tars), 'tar')}, {size / 1e6:,.1f} MB"
    print(f"{shards} is intact: {contents}; every sha256 matches.", file=remarks)
    if duplicates:
        from ..report.duplicates import find_duplicates
        from ..report.terminal import DUPLICATES
        from ..shards.reader import ShardSet

        DUPLICATES[format](shards, find_duplicates(ShardSet.open(shards)))
    return 0


def score(
    shards: Shards,
    against: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Compare a shard set's boxes with the ground truth: mean IoU and the share of boxes that overlap it enough.

    CorLoc is the share with an IoU of at least 0.5. Two baselines are listed too.

    For a set without ground truth: how well the detectors agree (mean IoU of every pair), and the share of boxes that
    cover the whole image.

    Args:
        shards: The folder of the shard set, or its URL.
        against: Compare with the boxes of this detector instead of the ground truth. Default: the ground truth, or for
            a set without it every detector with every other one.
        as_json: Print JSON instead of a table.
    """
    from ..report.agreement import agree
    from ..report.score import describe_detectors, read_boxes, score_boxes
    from ..report.terminal import print_agreement, print_scores
    from ..shards.reader import ShardSet

    opened = ShardSet.open(shards)
    scored = read_boxes(opened)
    if against is not None or scored.has_truth:
        scores = score_boxes(opened, scored, against)
        if as_json:
            print(json.dumps(scores, indent=1))
        else:
            print_scores(shards, scores)
        return 0
    agreement, about = agree(scored), describe_detectors(opened)
    if as_json:
        print(json.dumps({"agreement": agreement.as_json() | {"detectors": about}}, indent=1))
    else:
        print_agreement(shards, agreement, about)
    return 0


def show(
    shards: Shards,
    other: Annotated[MaybePlace, tyro.conf.Positional] = None,
    out: Path | None = None,
    samples: int = 96,
) -> int:
    """Write report.html: statistics of a shard set, images with their boxes, scores, the slowest and the worst samples.

    Args:
        shards: The folder of the shard set, or its URL.
        other: Another set of the same images, such as one with another objective: the page shows the boxes of both.
            Default: the page is of one set.
        out: The file to write; its name must end in .html or .htm. Default: report.html in the (first) shard set's
            folder; for a URL, NAME.html in the working folder.
        samples: Images to show, 1 to 1,000. The statistics cover all samples.
    """
    from ..report.page import write_report

    default = Path(f"{shards.name}.html") if isinstance(shards, Url) else shards / "report.html"
    path = write_report(shards, need_path(out, "--out") if out else default, samples, other)
    print(f"Wrote {path}. Open it in a browser; it needs no other file.")
    return 0


def list_all(folder: Place = Path("shards")) -> int:
    """List datasets (layout, size, source, found or not), detectors, and shard sets.

    Args:
        folder: The folder to search for shard sets, or its URL: s3:// or gs://.
    """
    from ..report.listing import print_listing

    print_listing(folder)
    return 0


def fetch_model(name: Annotated[str, tyro.conf.Positional]) -> int:
    """Download the network of a detector (u2netp, u2net, isnet, birefnet-lite) to where fgdata looks for it.

    That is $FGDATA_MODELS if it is set, else fgdata/models in your cache folder. To resume a stopped
    download, rerun the command. The sha256 is checked.

    Args:
        name: The detector.
    """
    from ..saliency.learned import NETWORKS, fetch

    path = fetch(name)
    print(f"{path} is the published file of {name} ({NETWORKS[name].licence}).")
    print(f"Use it: fgdata build-shards --dataset drawn --saliency {name}")
    return 0
