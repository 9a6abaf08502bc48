"""`fgdata list`: what there is to build from, to build with, and what is built. Plain lines, so that it pipes."""

from datetime import datetime
from pathlib import Path

from ..datasets import DATASETS, DatasetRow, default_root
from ..errors import InputError
from ..files.swap import list_leftovers
from ..saliency import DETECTORS
from ..shards.manifest import BUILDING, MANIFEST, read_manifest


def print_listing(folder: Path) -> None:
    """Prints datasets, detectors and the shard sets under a folder; a set that cannot be read says what is wrong."""
    print("Datasets (--dataset)")
    for name, row in DATASETS.items():
        print(f"  {name:18} {row.size}\n{'':20} {_whereabouts(name, row)}")
        if row.files:
            options = "".join(f"; takes --{option.replace('_', '-')}" for option in row.options)
            fetched = "; or --download" if row.archives else ""
            print(f"{'':20} layout: {row.layout}{options}\n{'':20} get it: {row.where}{fetched}")
    print("\nDetectors (--saliency)")
    for name, row in DETECTORS.items():
        print(f"  {name:18} {row.about}")
    print(f"\nShard sets under {folder}/")
    sets = sorted({path.parent for name in (MANIFEST, BUILDING) for path in folder.glob(f"*/{name}")})
    for path in sets:
        print(f"  {path.name:18} {_contents(path)}")
    for line in list_leftovers(folder):
        print(f"  {line}")
    if not sets:
        print("  none; build one: fgdata build-shards --dataset drawn")


def _whereabouts(name: str, row: DatasetRow) -> str:
    if not row.files:
        return f"built in ({row.layout})"
    root = default_root(name)
    return f"found at {root}" if root.is_dir() else f"not found at {root} (set FGDATA_ROOT, or give --root)"


def _contents(path: Path) -> str:
    try:
        manifest = read_manifest(path)
    except InputError as fault:
        return str(fault)
    built = datetime.fromtimestamp((path / MANIFEST).stat().st_mtime)
    counts = " + ".join(f"{split['samples']:,} {name}" for name, split in manifest["splits"].items())
    boxes = ", ".join(manifest["detectors"])
    return f"{manifest['dataset']['name']}: {counts}; boxes {boxes}; built {built:%Y-%m-%d %H:%M}"
