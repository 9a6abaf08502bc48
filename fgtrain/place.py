"""The shard set of a run, and the machine it runs on."""

from pathlib import Path

from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

SHARDS = Path("shards")


def open_shards(path: Path | None) -> ShardSet:
    """The named shard set, else the newest complete one under shards/ (a folder with manifest.json)."""
    if path is not None:
        return ShardSet.open(path)
    manifests = sorted(SHARDS.glob("*/manifest.json"), key=lambda p: p.stat().st_mtime)
    sets = [p.parent for p in manifests if p.parent.name != "tiny"]  # shards/tiny is the format's golden example
    if not sets:
        raise InputError(
            f"No shard set given, and none under {SHARDS.resolve()} (looked for */manifest.json). Build one:\n"
            "  fgdata build-shards --dataset cub --saliency rbd\n"
            "or name one with --shards FOLDER (of fgtrain run: --data.shards). With no dataset at hand, draw one:\n"
            "  fgdata build-shards --dataset drawn --saliency rbd"
        )
    return ShardSet.open(sets[-1])


def pick_device(name: str):
    """auto | cpu | cuda | cuda:N -> torch.device, or InputError when this machine has no such device."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # for what asks for the current one
    except (RuntimeError, AssertionError) as error:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        raise InputError(
            f"--device {name} cannot be used here; this machine has: {', '.join(['cpu', *found])}."
        ) from error
    return device


def has_bf16(device) -> bool:
    """Whether it is a GPU whose cores compute in bfloat16; on others torch emulates it, slowly."""
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
