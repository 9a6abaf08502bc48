"""The `fgdata` command.

build-shards, finish, rebox, add, coreset; check, score, show; card, push, pull; list, fetch-model
"""

import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import plugins
from .commandline import help_as_paragraphs
from .errors import BadImage, InputError, counted, run_command
from .stores.flag import MaybePlace, Place
from .stores.place import Url, need_local

DESCRIPTION = (
    "Saliency boxes cached with the data. Every command takes --plugin MODULE, which loads your own datasets, "
    "detectors and encoders (docs/extending.md)."
)
RECIPE_BATCH = 256
"""Samples per step of the recipe cvsa, and so the least number of train images that it takes."""
LARGE_SAMPLE = 50_000
"""Bytes of a sample from which a build mentions --max-side; at 384 pixels a photograph takes fewer."""
Shards = Annotated[Place, tyro.conf.Positional]
Folder = Annotated[Path, tyro.conf.Positional]
Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "coreml"]


def build_shards(
    dataset: str = "drawn",
    root: MaybePlace = None,
    out: MaybePlace = None,
    saliency: tuple[str, ...] = ("rbd",),
    objective: Literal["max-excess", "max-mean"] = "max-excess",
    tau: float | None = None,
    k: float | None = None,
    min_area: float | None = None,
    grid: int = 64,
    max_side: int | None = None,
    quality: int = 90,
    chroma: Literal["420", "444"] = "420",
    on_bad_image: Literal["stop", "skip"] = "stop",
    shard_samples: int = 256,
    jobs: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    keep_maps: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    onnx_provider: Provider = "cpu",
    onnx_threads: int = 1,
    classes: int | None = None,
    images_per_class: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    level: Literal["variant", "family", "manufacturer"] | None = None,
    class_list: Path | None = None,
    table: Path | None = None,
    annotations: tuple[Path, ...] = (),
    test_fraction: float | None = None,
    split_seed: int | None = None,
    split_folders: Literal["above", "inside", "none"] | None = None,
    download: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    part: str | None = None,
    command: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "",
) -> int:
    """Run saliency detectors over a dataset and write WebDataset shards that contain the boxes.

    If it is stopped, rerun the command: it resumes after the last complete shard.

    Args:
        dataset: The dataset; `fgdata list` shows all, with their layouts.
        root: The dataset's folder. Default: $FGDATA_ROOT/<dataset>, else data/<dataset>.
        out: The folder of the shard set, or its URL, s3:// or gs://: the set is then built in shards/<last part of the
            URL> and copied. Default: shards/<dataset>.
        saliency: One or more detectors; `fgdata list` shows them. gt is the dataset's own box.
        objective: How a box is chosen from a saliency map. max-excess: the box with the largest sum of
            (saliency - tau x mean of the map). max-mean: the box with the highest mean saliency among boxes of at
            least a minimum area.
        tau: For max-excess, 0 to 100: smaller values give larger boxes. Default: each detector's own, which suits its
            maps (docs/saliency.md).
        k: For max-mean: the minimum area, as a multiple of the map's effective area (sum S)^2 / sum S^2. Default: 2.
        min_area: For max-mean, instead of k: the minimum area as a fraction of the image, in (0, 1].
        grid: Cells per side of the grid on which boxes are compared, 2 to 256.
        max_side: Shrink and re-encode images whose longer side exceeds this many pixels, at least 16. Default: keep the
            original JPEG bytes.
        quality: JPEG quality of re-encoded images, 1 to 100.
        chroma: Colour resolution of re-encoded images: 420 is half, 444 full, for small coloured details.
        on_bad_image: stop: name the first image that cannot be read or whose box lies outside it, and stop. skip:
            omit such images and list them in the manifest. This includes JPEGs whose compressed data is damaged, which
            would decode to a partly wrong image. Truncation is always detected, a single wrong byte in about a quarter
            of cases.
        shard_samples: Samples per shard.
        jobs: Worker processes, one thread each. Default: all cores.
        engine: Where to build the shards: in local processes, or on a Ray cluster.
        ray_address: The cluster for --engine ray: auto or HOST:PORT. Default: $RAY_ADDRESS, else a cluster of this
            machine is started.
        keep_maps: Also store the saliency maps, in maps.h5, so that `fgdata rebox` can compute other boxes from them.
        onnx_provider: Execution provider that runs u2netp, u2net, isnet, birefnet-lite and onnx:FILE. auto: a GPU if
            onnxruntime supports one, else the CPU. Maps of different providers differ slightly; a set records its
            provider.
        onnx_threads: Threads per worker for these networks, 1 to 256. If above 1, lower --jobs.
        classes: drawn only: number of classes.
        images_per_class: drawn only: number of images per class, test images included.
        size: drawn only: longer side in pixels.
        seed: drawn only: the seed of the drawings.
        level: aircraft only: the level of the class labels. Default: variant.
        class_list: imagenet100 only: the file with the classes. Default: imagenet100.txt in the root.
        table: table only: the CSV file, with the columns path, label, x, y, w, h, split. Default: labels.csv in the
            root. Without --root, paths are relative to its folder.
        annotations: coco only: one or two json files in COCO's form, as other tools export them: train, then test.
            Without --root, paths are relative to the folder that holds them.
        test_fraction: folder, table and coco only, for a dataset without a test split: the fraction of every class to
            move to a new test split, above 0 and below 1.
        split_seed: Seed for drawing that test split. Default: 0.
        split_folders: folder only: where folders called train and test (or val, ...) are. above: train/CLASS/IMAGE.
            inside: CLASS/train/IMAGE. none: they are classes, or parts of a class. Default: what their places show.
        download: First download the dataset into the root, if it is freely available and not there yet.
        part: I/N: build only part I of N, counted from 0, into a folder that several machines share; then run `fgdata
            finish` (docs/cluster.md). auto/N: I is the index of this task in a job array of Slurm, Kubernetes or AWS
            Batch.
    """
    from . import datasets
    from .boxes.objective import Objective
    from .building import build
    from .building.parts import parse_part
    from .building.plan import recorded_plugins
    from .building.upload import check_target, upload
    from .cores import available_cores
    from .progress import Progress
    from .saliency import with_onnx

    share = None if part is None else parse_part(part)
    url = out if isinstance(out, Url) else None
    if url:
        check_target(url)
        if part:
            raise InputError("--part builds into a folder that several machines share; --out is a URL. Name a folder.")
    out = Path("shards") / (url.name if url else dataset) if out is None or isinstance(out, Url) else out
    if isinstance(root, Url):
        raise InputError(f"--root {root}: images are read from a folder of this machine only. Mount or copy it.")
    if missing := plugins.ask(str(out), recorded_plugins(out)):
        raise InputError(missing)
    options = {"classes": classes, "images_per_class": images_per_class, "size": size, "seed": seed}
    options |= {"level": level, "class_list": class_list, "annotations": annotations or None}
    options |= {
        "table": table,
        "test_fraction": test_fraction,
        "split_seed": split_seed,
        "split_folders": split_folders,
    }
    if download:
        from .datasets.fetch import download as fetch

        fetch(dataset, root)
    source = datasets.read(dataset, root, **{name: value for name, value in options.items() if value is not None})
    for line in source.note.splitlines():
        print(f"{dataset}: {line}")
    workers = available_cores() if jobs is None else jobs
    try:
        done = build.build(
            source,
            out,
            saliency=with_onnx(saliency, onnx_provider, onnx_threads),
            objective=Objective(objective, grid=grid).override(tau=tau, k=k, min_area=min_area),
            max_side=max_side,
            quality=quality,
            chroma=chroma,
            on_bad_image=on_bad_image,
            shard_samples=shard_samples,
            workers=workers,
            engine=engine,
            ray_address=ray_address,
            keep_maps=keep_maps,
            part=share,
            command=command,
        )
    except BadImage as fault:
        own = f"{command} --part {shlex.quote(part)}" if part else command
        raise BadImage(fault.fault, fault.remedy, own, fault.count) from None
    folder = shlex.quote(str(out))
    if share and not done.was_complete:
        print(f"{out}: part {share} is built: {done.written:,} samples by this run in {done.seconds:,.1f} s")
        print(f"When all {share.count:,} parts are built: fgdata finish {folder}")
        return 0
    if done.was_complete:
        print(f"{out} is already complete: {_total(done.manifest)}.{'' if url else ' Nothing to do.'}")
    else:
        how = f", {done.written:,} of them built by this run in"
        if not done.written:
            how = ". All shards were already built; wrote the manifest in"
        print(f"{out}: {_total(done.manifest)}{how} {done.seconds:,.1f} s")
    if url:
        with Progress(f"Copying to {url}", sum(split["samples"] for split in done.manifest["splits"].values())) as bar:
            copied = upload(out, url, bar.advance)
        what = f"{copied.bytes / 1e6:,.1f} MB copied in {copied.seconds:,.1f} s" if copied.bytes else "already complete"
        print(f"{url}: {what}. {out} is a copy on this machine; remove it if you do not need it.")
    if url or not done.was_complete:
        _print_next(url or out, done.manifest)
    return 0


def finish(shards: Shards, jobs: int | None = None) -> int:
    """Write the manifest of a set that was built with --part, or list the missing shards and the commands for them.

    Every shard is read back and compared with its sha256 first. The dataset is not needed.

    Args:
        shards: The folder of the shard set.
        jobs: Shards that are read at once. Default: all cores.
    """
    from .building.finish import finish as finish_set
    from .cores import available_cores

    folder = need_local(shards, "fgdata finish")
    threads = available_cores() if jobs is None else jobs
    if threads < 1:
        raise InputError(f"--jobs {threads}: must be at least 1.")
    done = finish_set(folder, threads=threads)
    if done.was_complete:
        print(f"{shards} is already complete: {_total(done.manifest)}. Nothing to do.")
        return 0
    print(f"{shards}: {_total(done.manifest)}. All shards are intact; wrote the manifest in {done.seconds:,.1f} s")
    _print_next(folder, done.manifest)
    return 0


def rebox(
    shards: Shards,
    objective: Literal["max-excess", "max-mean"] | None = None,
    tau: float | Literal["own"] | None = None,
    k: float | None = None,
    min_area: float | None = None,
    grid: int | None = None,
    out: Path | None = None,
    jobs: int | None = None,
) -> int:
    """Recompute the boxes of a shard set from its stored maps; no detector runs and the images are unchanged.

    Needs a set built with --keep-maps. The set is replaced in one step at the end: an interruption leaves either
    the old set or the new one. Do not run this while a training run reads the set.

    Args:
        shards: The folder of the shard set.
        objective: How a box is chosen from a saliency map; see `fgdata build-shards --help`. Default: the set's.
            Another objective starts with its own default tau or k.
        tau: For max-excess, 0 to 100: smaller values give larger boxes; own: each detector's own. Default: the set's.
        k: For max-mean: the minimum area, as a multiple of the map's effective area (sum S)^2 / sum S^2. Default: the
            set's.
        min_area: For max-mean, instead of k: the minimum area as a fraction of the image, in (0, 1]. Default: the
            set's.
        grid: Cells per side of the grid on which boxes are compared, 2 to 256. Default: the set's.
        out: Write the new set to this folder and keep the old one. Default: replace the old set.
        jobs: Worker processes, one thread each. Default: all cores.
    """
    from .building.rewrite import objective_of
    from .building.rewrite import rebox as rebox_set
    from .cores import available_cores
    from .files.swap import is_working_folder

    folder = need_local(shards, "fgdata rebox")
    inside = out is None and is_working_folder(folder)
    wanted = objective_of(folder).override(name=objective, tau=tau, k=k, min_area=min_area, grid=grid)
    done = rebox_set(folder, wanted, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: recomputed the boxes of {_total(done.manifest)} in {done.seconds:,.1f} s")
    if inside:
        _explain_replacement()
    both = [str(shards), str(out)] if out else []
    print(f"Compare them: {shlex.join(['fgdata', 'show', *both] if both else ['fgdata', 'score', str(done.path)])}")
    return 0


def add(
    shards: Shards,
    saliency: str,
    out: Path | None = None,
    jobs: int | None = None,
    onnx_provider: Provider = "cpu",
    onnx_threads: int = 1,
) -> int:
    """Run one more detector on the images of a shard set and add its boxes; everything else is unchanged.

    The set is replaced in one step at the end, as by `fgdata rebox`. The set's own objective chooses the boxes.

    Args:
        shards: The folder of the shard set.
        saliency: The detector; `fgdata list` shows them.
        out: Write the new set to this folder and keep the old one. Default: replace the old set.
        jobs: Worker processes, one thread each. Default: all cores.
        onnx_provider: See `fgdata build-shards --help`.
        onnx_threads: See `fgdata build-shards --help`.
    """
    from .building.rewrite import add as add_to_set
    from .cores import available_cores
    from .files.swap import is_working_folder
    from .saliency import with_onnx

    folder = need_local(shards, "fgdata add")
    inside = out is None and is_working_folder(folder)
    (saliency,) = with_onnx((saliency,), onnx_provider, onnx_threads)
    done = add_to_set(folder, saliency, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: added boxes by {saliency} to {_total(done.manifest)} in {done.seconds:,.1f} s")
    if inside:
        _explain_replacement()
    print(f"Compare them: fgdata score {shlex.quote(str(done.path))}")
    return 0


def coreset(
    pool: Shards,
    target: Shards,
    encoder: str,
    budget: float,
    out: Path,
    split: str = "train",
    centres: int = 100,
    stop: float = 0.0,
    seed: int = 0,
) -> int:
    """Choose from an unlabelled set the images nearest to yours, and write them as a set (SimCore, CVPR 2023).

    The new set appears in one step at the end: an interruption leaves no folder. Train on it, then continue on your
    own set from that run: fgtrain run NAME --init runs/NAME

    Args:
        pool: The folder of the shard set to choose from; its labels are not used.
        target: The folder of your shard set; its labels are not used.
        encoder: The network that compares images, best one trained on the target: fgtrain:runs/byol, or a weights file
            with the network's name in timm, fgtrain:FILE,backbone=NAME. ,size=N sets the side of the view in pixels
            (default: that of the network's training images), ,device=cuda the device (default: cpu).
        budget: Number of images to choose, or below 1 a share of the pool, such as 0.01.
        out: The folder of the new set.
        split: The split of both sets that is read.
        centres: Centres of the target's features (k-means), each of which takes its nearest image in turn.
        stop: Stop early, before the first round whose mean similarity is below this share of the first round's (the
            paper: 0.95). 0: spend the whole budget.
        seed: Seed of the first centres.
    """
    from .selection import open_encoder
    from .selection.coreset import coreset as choose
    from .shards.reader import ShardSet

    pool_set, target_set = ShardSet.open(need_local(pool, "fgdata coreset")), ShardSet.open(target)
    done = choose(
        pool_set,
        target_set,
        open_encoder(encoder),
        budget,
        out,
        split=split,
        centres=centres,
        stop=stop,
        seed=seed,
    )
    chosen = done.manifest["splits"][split]["samples"]
    print(f"{out}: {chosen:,} of {counted(pool_set.splits[split], 'image')} of {pool} in {done.seconds:,.1f} s")
    print(f"  similarity to the target: {done.rounds[0]:.3f} in the first round, {done.rounds[-1]:.3f} in the last")
    print(f"View it: fgdata show {shlex.quote(str(out))}")
    return 0


def check(
    shards: Shards,
    duplicates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    format: Literal["table", "csv", "json"] = "table",
) -> int:
    """Check every byte of a shard set. If files are damaged, name them and exit with 1.

    Args:
        shards: The folder of the shard set, or its URL.
        duplicates: Also decode all images and name the test images that are also in train, as they are or rescaled,
            compressed again or mirrored. Pairs within a split are counted. The exit code stays 0.
        format: How these pairs are printed. csv and json print nothing else on standard output.
    """
    from .files.swap import list_leftovers
    from .progress import Progress
    from .shards.check import check as check_set
    from .shards.manifest import read_manifest

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
        print(
            f"{shards} is damaged: {counted(len(faults), 'fault')}. Restore the files named above, or rebuild the set: "
            "fgdata build-shards",
            file=sys.stderr,
        )
        return 1
    tars = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    size = sum(shard["bytes"] + shard["index_bytes"] for shard in tars) + manifest.get("maps", {}).get("bytes", 0)
    contents = f"{counted(total, 'sample')} in {counted(len(tars), 'tar')}, {size / 1e6:,.1f} MB"
    print(f"{shards} is intact: {contents}; every sha256 matches.", file=remarks)
    if duplicates:
        from .report.duplicates import find_duplicates
        from .report.terminal import DUPLICATES
        from .shards.reader import ShardSet

        with Progress("Comparing", total) as progress:
            found = find_duplicates(ShardSet.open(shards), progress.advance)
        DUPLICATES[format](shards, found)
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
        against: Compare with the boxes of this detector instead of the ground truth, for a set that has none.
        as_json: Print JSON instead of a table.
    """
    from .report.agreement import agree
    from .report.score import describe_detectors, read_boxes
    from .report.score import score as score_set
    from .report.terminal import print_agreement, print_scores
    from .shards.reader import ShardSet

    scored = read_boxes(ShardSet.open(shards))
    if against is not None or any(map(len, scored.truth)):
        scores = score_set(shards, against)
        if as_json:
            print(json.dumps(scores, indent=1))
        else:
            print_scores(shards, scores)
        return 0
    agreement, about = agree(scored), describe_detectors(ShardSet.open(shards))
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
        out: The file to write; its name must end in .html or .htm. Default: report.html in the (first) shard set's
            folder; for a URL, NAME.html in the working folder.
        samples: Images to show, 1 to 1,000. The statistics cover all samples.
    """
    from .report.page import write_report

    default = Path(f"{shards.name}.html") if isinstance(shards, Url) else shards / "report.html"
    path = write_report(shards, out or default, samples, other)
    print(f"Wrote {path}. Open it in a browser; it needs no other file.")
    return 0


def card(shards: Folder, out: Path | None = None, to: str | None = None, licence: str | None = None) -> int:
    """Write the files that describe a shard set to others: README.md, croissant.json and metadata.parquet.

    README.md is a dataset card for the Hugging Face hub; edit it as you like, it is not overwritten. croissant.json
    describes the set to other programs (MLCommons Croissant 1.0). metadata.parquet has a row for each image: key, id,
    class, split, tar, boxes, scores. Needs pyarrow. `fgdata push` makes these files by itself.

    Args:
        shards: The folder of the shard set.
        out: The folder to write to. Default: the shard set's folder.
        to: Where the set will be, for links and commands: hf://datasets/ORG/NAME.
        licence: Licence of the set, by the hub's name: cc-by-4.0, mit, ... Default: what fgdata knows of the dataset.
    """
    from .files.hub import check_licence, dataset_name
    from .sharing.describe import FILES, describe

    repository = dataset_name(to) if to is not None else None
    folder = out or shards
    describe(shards, folder, repository=repository, licence=check_licence(licence))
    print(f"{folder}: wrote {', '.join(FILES)}")
    return 0


def push(
    shards: Folder,
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf://datasets/ORG/NAME")],
    licence: str | None = None,
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    have_right: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Upload a shard set to the Hugging Face hub, with a dataset card, croissant.json and metadata.parquet.

    Every byte of the set is checked first. The manifest is uploaded last, so a stopped upload does not look complete;
    rerun the command to resume. Needs huggingface_hub, pyarrow and a token (hf auth login).

    Args:
        shards: The folder of the shard set. Its README.md, if it has one, becomes the card.
        to: The address of the dataset; it is created if it does not exist, private without --public.
        licence: Licence of the set, by the hub's name: cc-by-4.0, mit, ... Default: what fgdata knows of the dataset.
        public: Create a public dataset, or upload to one that is public.
        have_right: You state that you have the right to give these images to others. Needed for every dataset whose
            publisher does not allow it to everybody, and for your own images.
    """
    from .files.hub import check_licence
    from .sharing.push import push as push_set

    done = push_set(shards, to, licence=check_licence(licence), public=public, have_right=have_right)
    state = "private" if done.private else "public"
    print(f"{to} ({state}): uploaded {counted(done.uploaded, 'file')}; the hub has every file of the manifest.")
    print(f"Get it: fgdata pull {to} FOLDER")
    return 0


def pull(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf://datasets/ORG/NAME")],
    shards: Folder,
) -> int:
    """Download a shard set from the Hugging Face hub, and compare every file with the manifest's sha256.

    The manifest is written last, so a stopped download does not look complete; rerun the command to resume. Needs
    huggingface_hub, and for a private dataset a token (hf auth login).

    Args:
        source: The address of the dataset.
        shards: The folder of the shard set: a new one, an empty one, or one in which a pull was stopped.
    """
    from .sharing.pull import pull as pull_set

    done = pull_set(source, shards)
    if done.was_complete:
        print(f"{shards} is already complete: {_total(done.manifest)}. Nothing to do.")
        return 0
    print(f"{shards}: {_total(done.manifest)}; downloaded {counted(done.downloaded, 'file')}; every sha256 matches.")
    _print_next(shards, done.manifest)
    return 0


def list_all(folder: Place = Path("shards")) -> int:
    """List datasets (layout, size, source, found or not), detectors, and shard sets.

    Args:
        folder: The folder to search for shard sets, or its URL: s3:// or gs://.
    """
    from .report.listing import print_listing

    print_listing(folder)
    return 0


def fetch_model(name: Annotated[str, tyro.conf.Positional]) -> int:
    """Download the network of a detector (u2netp, u2net, isnet, birefnet-lite) to where fgdata looks for it.

    That is $FGDATA_MODELS if it is set, else fgdata/models in your cache folder. To resume a stopped
    download, rerun the command. The sha256 is checked.

    Args:
        name: The detector.
    """
    from .saliency.learned import NETWORKS, fetch

    path = fetch(name)
    print(f"{path} is the published file of {name} ({NETWORKS[name].licence}).")
    print(f"Use it: fgdata build-shards --dataset drawn --saliency {name}")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line -> exit code: 0, 1 if damage is found, 2 for input that cannot be used.

    args: the words after the program's name; default: those of this process.
    """
    words = sys.argv[1:] if args is None else list(args)
    commands = {
        "build-shards": partial(build_shards, command=_without_part(words)),
        "finish": finish,
        "rebox": rebox,
        "add": add,
        "coreset": coreset,
        "check": check,
        "score": score,
        "show": show,
        "card": card,
        "push": push,
        "pull": pull,
        "list": list_all,
        "fetch-model": fetch_model,
    }

    def command() -> int:
        rest, modules = plugins.take(words)
        if modules or plugins.installed("DATASETS", "DETECTORS", "ENCODERS"):
            from .datasets import DATASETS
            from .saliency import DETECTORS
            from .selection import ENCODERS

            tables = {"DATASETS": DATASETS, "DETECTORS": DETECTORS, "ENCODERS": ENCODERS}
            plugins.load_installed(tables)
            plugins.load(modules, tables)
        with help_as_paragraphs(rest):
            return tyro.extras.subcommand_cli_from_dict(commands, prog="fgdata", description=DESCRIPTION, args=rest)

    given = [word for word in words if not word.startswith("-")]
    when_stopped = {
        "build-shards": "Finished shards are kept: rerun the command to resume after them.",
        "finish": "Finished shards are kept: rerun the command.",
        "rebox": "The shard set is unchanged.",
        "add": "The shard set is unchanged.",
        "coreset": "Nothing was written.",
        "push": "What was uploaded is kept: rerun the command to resume.",
        "pull": "What was downloaded is kept: rerun the command to resume.",
        "fetch-model": "The part that was downloaded is kept: rerun the command to resume.",
    }
    return run_command("fgdata", command, when_stopped.get(given[0] if given else "", ""))


def _print_next(shards: Path | Url, manifest: dict) -> None:
    """Prints the remarks on a finished set, and the commands that show it and train on it."""
    for line in _remarks(manifest):
        print(f"  {line}")
    folder = shlex.quote(str(shards))
    print(f"View it:     fgdata show {folder}")
    if (train := manifest["splits"].get("train", {}).get("samples", 0)) >= 2:
        smaller = "" if train >= RECIPE_BATCH else f" --data.batch-size {1 << (train.bit_length() - 1)}"
        print(f"Train on it: fgtrain run cvsa --data.shards {folder}{smaller}")


def _without_part(words: Sequence[str]) -> str:
    """The words of this command -> the command that builds the whole set."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--part":
            next(rest, None)
        elif not word.startswith("--part="):
            kept.append(word)
    return shlex.join(["fgdata", *kept])


def _explain_replacement() -> None:
    """Tells a user whose shell is inside a set that was replaced how to enter the new folder: this process is there."""
    print(
        f"The folder was replaced and your shell is in the old one. Enter it again: cd {shlex.quote(str(Path.cwd()))}"
    )


def _total(manifest: dict) -> str:
    counts = {name: split["samples"] for name, split in manifest["splits"].items()}
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return counted(sum(counts.values()), "sample") + (f" ({parts})" if parts else "")


def _remarks(manifest: dict) -> list[str]:
    """-> remarks on a finished build: skipped images, clipped boxes, re-encoded images, fallbacks, large images."""
    lines = []
    if manifest["skipped"]:
        lines.append(f"{counted(len(manifest['skipped']), 'unusable image')} skipped; manifest.json lists them")
    if manifest["boxes_clipped"]:
        clipped = counted(manifest["boxes_clipped"], "image")
        lines.append(f"{clipped} had ground-truth boxes that extended beyond the image; these were clipped")
    if manifest["reencoded"]:
        encoded = counted(manifest["reencoded"], "image")
        lines.append(f"{encoded} re-encoded as JPEG (not a JPEG of 1 or 3 channels, or larger than --max-side)")
    for name, counts in manifest["fallbacks"].items():
        lines += [
            f"{counted(count, 'image')} got the whole-image box from {name}: {kind} map"
            for kind, count in counts.items()
        ]
    tars = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    size = sum(tar["bytes"] for tar in tars) / max(1, sum(tar["samples"] for tar in tars))
    if manifest["images"]["max_side"] is None and size > LARGE_SAMPLE:
        lines.append(
            f"the images have their original size, {size / 1000:,.0f} kB on average; --max-side 384 makes a smaller "
            "set that is read and decoded faster (docs/build.md)"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
