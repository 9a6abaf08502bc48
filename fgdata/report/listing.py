"""`fgdata list`: datasets, detectors, encoders and shard sets, as plain lines for pipes."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..datasets import DATASETS, DatasetRow, default_root
from ..errors import InputError
from ..files.swap import list_leftovers
from ..saliency import DETECTORS
from ..selection import ENCODERS
from ..shards.manifest import BUILDING, MANIFEST, PULLING, describe_objective, manifest_faults, read_manifest
from ..stores.place import Url
from ..stores.store import open_store


def print_listing(folder: Path | Url) -> None:
    """Prints datasets, detectors, encoders and the shard sets in a folder, with the error of each unreadable set."""
    print("Datasets (--dataset)")
    for name, row in DATASETS.items():
        print(f"  {name:18} {row.size}\n{'':20} {_describe_location(name, row)}")
        if row.files:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in row.options)
            options, download = options and f"; takes {options}", "; or --download" if row.archives else ""
            print(f"{'':20} layout: {row.layout}{options}\n{'':20} get it: {row.where}{download}")
    print("\nDetectors (--saliency)")
    for name, row in DETECTORS.items():
        print(f"  {name:18} {row.about}")
    print("\nEncoders (fgdata coreset --encoder)")
    for name, encoder in ENCODERS.items():
        print(f"  {name:18} {encoder.about}")
    print(f"\nShard sets in {folder}/")
    sets = _find_sets(folder)
    for path in sets:
        print(f"  {path.name:18} {_describe_set(path)}")
    if isinstance(folder, Path):
        for line in list_leftovers(folder):
            print(f"  {line}")
    if not sets:
        print("  none; build one: fgdata build-shards --dataset drawn")


def _find_sets(folder: Path | Url) -> Sequence[Path | Url]:
    """Complete and unfinished sets of a folder. Of a URL, those of storage that lists its folders."""
    if isinstance(folder, Path):
        return sorted({path.parent for name in (MANIFEST, BUILDING, PULLING) for path in folder.glob(f"*/{name}")})
    if (names := open_store(folder).names()) is None:
        raise InputError(f"{folder} cannot be listed; allowed: folders of this machine, s3:// and gs:// URLs.")
    inner = [(folder / name, open_store(folder / name).names() or ()) for name in names]
    return [path for path, files in inner if {MANIFEST, BUILDING} & {*files}]


def _describe_location(name: str, row: DatasetRow) -> str:
    if not row.files:
        return f"built in ({row.layout})"
    root = default_root(name)
    return f"found at {root}" if root.is_dir() else f"not found at {root} (set FGDATA_ROOT, or use --root)"


def _describe_set(path: Path | Url) -> str:
    try:
        manifest = read_manifest(path)
    except InputError as fault:
        return str(fault)
    if fault := next(manifest_faults(path, manifest), None):
        return f"{fault}. Check it: {shlex.join(['fgdata', 'check', str(path)])}"
    built = ""
    if isinstance(path, Path):
        built = f"; built {datetime.fromtimestamp((path / MANIFEST).stat().st_mtime):%Y-%m-%d %H:%M}"
    counts = " + ".join(f"{split['samples']:,} {name}" for name, split in manifest["splits"].items())
    counts = counts or "no samples"
    boxes = ", ".join(manifest["detectors"])
    if {*manifest["detectors"]} - {"gt"}:
        boxes += f" ({describe_objective(manifest)})"
    return f"{manifest['dataset']['name']}: {counts}; boxes {boxes}{built}"
