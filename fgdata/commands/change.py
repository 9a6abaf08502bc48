"""rebox, add, coreset: a new set, or new boxes, from a set"""

import shlex
from pathlib import Path
from typing import Literal

from ..errors import counted
from ..stores.place import need_local, need_path
from .common import Folder, Provider, explain_outdated, explain_replacement, total_of


def rebox(
    shards: Folder,
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
        jobs: Worker processes, one thread each. Default: the cores that this process may use.
    """
    from ..building.rewrite import objective_of
    from ..building.rewrite import rebox as rebox_set
    from ..cores import available_cores
    from ..files.swap import is_working_folder

    folder = need_local(shards, "fgdata rebox")
    out = need_path(out, "--out") if out else None
    inside = out is None and is_working_folder(folder)
    wanted = objective_of(folder).override(name=objective, tau=tau, k=k, min_area=min_area, grid=grid)
    done = rebox_set(folder, wanted, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: recomputed the boxes of {total_of(done.manifest)} in {done.seconds:,.1f} s")
    explain_outdated(done)
    if inside:
        explain_replacement()
    both = [str(shards), str(out)] if out else []
    print(f"Compare them: {shlex.join(['fgdata', 'show', *both] if both else ['fgdata', 'score', str(done.path)])}")
    return 0


def add(
    shards: Folder,
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
        jobs: Worker processes, one thread each. Default: the cores that this process may use.
        onnx_provider: See `fgdata build-shards --help`.
        onnx_threads: See `fgdata build-shards --help`.
    """
    from ..building.rewrite import add as add_to_set
    from ..cores import available_cores
    from ..files.swap import is_working_folder
    from ..saliency import with_onnx

    folder = need_local(shards, "fgdata add")
    out = need_path(out, "--out") if out else None
    inside = out is None and is_working_folder(folder)
    (saliency,) = with_onnx((saliency,), onnx_provider, onnx_threads)
    done = add_to_set(folder, saliency, out=out, workers=available_cores() if jobs is None else jobs)
    print(f"{done.path}: added boxes by {saliency} to {total_of(done.manifest)} in {done.seconds:,.1f} s")
    explain_outdated(done)
    if inside:
        explain_replacement()
    print(f"Compare them: fgdata score {shlex.quote(str(done.path))}")
    return 0


def coreset(
    pool: Folder,
    target: Folder,
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
    from ..selection import open_encoder
    from ..selection.coreset import coreset as choose
    from ..shards.reader import ShardSet

    out = need_path(out, "--out")
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
