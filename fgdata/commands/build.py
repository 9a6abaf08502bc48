"""build-shards, finish"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .. import plugins
from ..errors import BadImage, InputError
from ..stores.flag import MaybePlace
from ..stores.place import Url, need_local
from .common import Folder, Provider, print_next, total_of


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

    Rerun the command after an interruption: it resumes after the last complete shard.

    Args:
        dataset: The dataset; `fgdata list` shows all, with their layouts.
        root: The dataset's folder. Default: $FGDATA_ROOT/<dataset>, else data/<dataset>. An s3:// or gs:// URL: its
            files are first copied to $FGDATA_ROOT/remote, else data/remote (docs/remote.md).
        out: The folder of the shard set, or its URL, s3:// or gs://: the set is then built in shards/<last part of the
            URL> and copied. Default: shards/<dataset>.
        saliency: One or more detectors; `fgdata list` shows them. gt is the dataset's own box.
        objective: How a box is chosen from a saliency map. max-excess: the box with the largest sum of
            (saliency - tau x mean of the map). max-mean: the box with the highest mean saliency among boxes of at
            least a minimum area.
        tau: For max-excess, 0 to 100: smaller values give larger boxes. Default: each detector's own, which suits its
            maps (docs/saliency.md).
        k: For max-mean: the minimum area, as a multiple of the map's effective area (sum S)^2 / sum S^2. Default: 2.
        min_area: For max-mean, instead of k: the minimum area as a fraction of the image, in (0, 1]. Default: k sets
            the minimum area.
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
        jobs: Worker processes, one thread each. Default: the cores that this process may use.
        engine: Where to build the shards: in local processes, or on a Ray cluster.
        ray_address: The cluster for --engine ray: auto or HOST:PORT. Default: $RAY_ADDRESS, else a cluster of this
            machine is started.
        keep_maps: Also store the saliency maps, in maps.h5, so that `fgdata rebox` can compute other boxes from them.
        onnx_provider: Execution provider that runs u2netp, u2net, isnet, birefnet-lite and onnx:FILE. auto: a GPU if
            onnxruntime supports one, else the CPU. Maps of different providers differ slightly; a set records its
            provider.
        onnx_threads: Threads per worker for these networks, 1 to 256. If above 1, lower --jobs.
        classes: Use only the first N classes. Default: all. For drawn: the number of classes to draw; default: 20.
        images_per_class: At most N training images per class, evenly spaced in the dataset's order. Default: all. For
            drawn: the number of images to draw per class, test images included; default: 60.
        size: drawn only: longer side in pixels. Default: 256.
        seed: drawn only: the seed of the drawings. Default: 0.
        level: aircraft only: the level of the class labels. Default: variant.
        class_list: imagenet100 only: the file with the classes. Default: imagenet100.txt in the root.
        table: table only: the CSV file, with the columns path, label, x, y, w, h, split. Default: labels.csv in the
            root. Without --root, paths are relative to its folder.
        annotations: coco only: one or two json files in COCO's form, as other tools export them: train, then test.
            Without --root, paths are relative to the folder that holds them.
        test_fraction: folder, table and coco only, for a dataset without a test split: the fraction of every class to
            move to a new test split, above 0 and below 1. Default: the dataset's own splits.
        split_seed: Seed for drawing that test split. Default: 0.
        split_folders: folder only: where folders called train and test (or val, ...) are. above: train/CLASS/IMAGE.
            inside: CLASS/train/IMAGE. none: they are classes, or parts of a class. Default: inferred from the layout.
        download: First download the dataset into the root, if it has a public address and is not there yet.
        part: I/N: build only part I of N, counted from 0, into a folder that several machines share; then run `fgdata
            finish` (docs/cluster.md). auto/N: I is the index of this task in a job array of Slurm, Kubernetes or AWS
            Batch. Default: build the whole set.
    """
    from .. import datasets
    from ..boxes.objective import Objective
    from ..building import build
    from ..building.parts import parse_part
    from ..building.plan import recorded_plugins
    from ..building.upload import check_target, upload
    from ..cores import available_cores
    from ..progress import Progress
    from ..saliency import with_onnx

    share = None if part is None else parse_part(part)
    url = out if isinstance(out, Url) else None
    if url:
        check_target(url)
        if part:
            raise InputError("--part builds into a folder that several machines share; --out is a URL. Name a folder.")
    out = Path("shards") / (url.name if url else dataset) if out is None or isinstance(out, Url) else out
    if download and isinstance(root, Url):
        raise InputError(f"--download needs a folder of this machine, and --root {root} is a URL. Omit one of them.")
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
        from ..datasets.fetch import download as fetch

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
        print(f"{out} is already complete: {total_of(done.manifest)}.{'' if url else ' Nothing to do.'}")
    else:
        how = f", {done.written:,} of them built by this run in"
        if not done.written:
            how = ". All shards were already built; wrote the manifest in"
        print(f"{out}: {total_of(done.manifest)}{how} {done.seconds:,.1f} s")
    if url:
        with Progress(f"Copying to {url}", sum(split["samples"] for split in done.manifest["splits"].values())) as bar:
            copied = upload(out, url, bar.advance)
        what = f"{copied.bytes / 1e6:,.1f} MB copied in {copied.seconds:,.1f} s" if copied.bytes else "already complete"
        print(f"{url}: {what}. {out} is a copy on this machine; remove it if you do not need it.")
    if url or not done.was_complete:
        print_next(url or out, done.manifest)
    return 0


def finish(shards: Folder, jobs: int | None = None) -> int:
    """Write the manifest of a set that was built with --part, or list the missing shards and the commands for them.

    Every shard is read back and compared with its sha256 first. The dataset is not needed.

    Args:
        shards: The folder of the shard set.
        jobs: Shards that are read at once. Default: the cores that this process may use.
    """
    from ..building.finish import finish as finish_set
    from ..cores import available_cores

    folder = need_local(shards, "fgdata finish")
    threads = available_cores() if jobs is None else jobs
    if threads < 1:
        raise InputError(f"--jobs {threads}: must be at least 1.")
    done = finish_set(folder, threads=threads)
    if done.was_complete:
        print(f"{shards} is already complete: {total_of(done.manifest)}. Nothing to do.")
        return 0
    print(f"{shards}: {total_of(done.manifest)}. All shards are intact; wrote the manifest in {done.seconds:,.1f} s")
    print_next(folder, done.manifest)
    return 0


def without_part(words: Sequence[str]) -> str:
    """The words of this command -> the command that builds the whole set."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--part":
            next(rest, None)
        elif not word.startswith("--part="):
            kept.append(word)
    return shlex.join(["fgdata", *kept])
