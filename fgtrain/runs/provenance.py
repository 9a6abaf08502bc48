"""Where a run or a measurement comes from: command, commit, versions, device and shard set."""

import os
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fgdata import plugins
from fgdata.cores import machine
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet

from .. import parallel
from .rundir import RunDir

PACKAGES = (
    *("fgtrain", "torch", "torchvision", "timm", "numpy", "opencv-contrib-python-headless", "pillow", "h5py"),
    *("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
)
TREE = Path(__file__).resolve().parents[2]
"""The folder of both packages: a clone, or where packages are installed."""


def describe_run(shards: ShardSet, device: torch.device) -> dict[str, Any]:
    """What run.json records when a run starts or resumes."""
    used = {"plugins": plugins.loaded()} if plugins.loaded() else {}
    return {
        **used,
        "argv": sys.argv,
        "pid": os.getpid(),
        "commit": commit(),
        "versions": versions(),
        "device": name_of(device),
        "machine": machine(),
        "processes": parallel.world_size(),
        "nodes": parallel.nodes(),
        "threads": torch.get_num_threads(),
        "shards": {"path": str(shards.path.resolve()), "digest": shards.manifest["digest"]},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def earlier_parts(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """run.json of a run that is resumed -> one entry per part so far: what wrote it, and the step where it ended, which
    is that of its last checkpoint if it was killed."""
    names = ("argv", "commit", "versions", "device", "started")
    step = max(facts.get("step") or 0, facts.get("checkpoint") or 0)
    used = {"plugins": facts["plugins"]} if "plugins" in facts else {}
    return [*facts.get("earlier", []), {name: facts.get(name) for name in names} | used | {"step": step}]


def name_of(device: torch.device) -> str:
    """The model of a GPU, else cpu or mps."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages in PACKAGES, by name."""
    installed = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def commit(tree: Path = TREE) -> str | None:
    """The commit of a source tree, by default this one; None for an installed package.

    In a worktree or submodule, .git is a file that names a folder; a worktree's branches are in its `commondir`.
    """
    git = tree / ".git"
    try:
        if git.is_file():
            git = tree / git.read_text().removeprefix("gitdir: ").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        common = git / "commondir"
        branches = git / common.read_text().strip() if common.is_file() else git
        branch = head.removeprefix("ref: ")
        if (branches / branch).is_file():
            return (branches / branch).read_text().strip()
        packed = (branches / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {branch}")), None)
    except (OSError, ValueError):  # no repository, or not the text that git writes
        return None


def recorded_set(run: RunDir) -> dict[str, str]:
    """`shards` of run.json: path and digest of the set; {} when it is absent. InputError when it is anything else."""
    value = run.facts.get("shards", {})
    if not isinstance(value, dict) or not all(isinstance(v, str) and "\0" not in v for v in value.values()):
        raise InputError(
            f"{run.path / 'run.json'} is damaged: `shards` is {str(value)[:60]!r}, not the path and digest of a set. "
            "Restore the file from a copy, or evaluate a checkpoint copied out of the run, with --shards FOLDER."
        )
    return value
