"""A disk that is too small under every command that writes: one message, then the same result once there is space."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, differ, hashes, last_line
from torture_runs import TRAIN, last_weights, prepare
from torture_sets import BUILD

COMMANDS = {
    "build-shards": BUILD,
    "finish": ("fgdata", "finish", "set"),
    "rebox": ("fgdata", "rebox", "set", "--tau", "0.5"),
    "add": ("fgdata", "add", "set", "--saliency", "vsf"),
    "show": ("fgdata", "show", "set"),
    "run": (*TRAIN, "--resume"),
}


class Full:
    """A command runs on a small tmpfs until it is full, and again on a larger one."""

    NAME = "full"

    def __init__(self, folder: Path, runner: Runner):
        self.runner, self.folder = runner, folder
        if not can_mount(folder.parent):
            enter_namespace(folder.parent)
        prepare(folder, runner)
        self.expected: dict[str, dict[str, str]] = {}
        for name, words in COMMANDS.items():
            (folder / name).mkdir()
            self._fill(folder / name, name)
            code, output = runner.run(folder / name, *words)
            assert code == 0, f"{name}: {output}"
            self.expected[name] = self._result(folder / name, name)

    def _fill(self, folder: Path, name: str) -> None:
        """What must be there before a command runs."""
        if name == "finish":
            code, output = self.runner.run(folder, *BUILD, "--part", "0/1")
            assert code == 0, output
        elif name != "build-shards":
            shutil.copytree(self.folder / "set", folder / "set")

    def _result(self, folder: Path, name: str) -> dict[str, str]:
        if name == "run":
            return last_weights(folder / "run")
        return {} if name == "show" else hashes(folder / "set")

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        name = rng.choice(sorted(COMMANDS))
        disk = case / "disk"
        disk.mkdir()
        with mounted(disk, 64 << 20):
            self._fill(disk, name)
            used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
            room = rng.randrange(0, 600_000) & ~4095
            remount(disk, used + room)
            (case / "output").touch()
            (disk / "output").unlink(missing_ok=True)
            (disk / "output").symlink_to(case / "output")  # what it prints must not need the disk
            code, output = self.runner.run(disk, *COMMANDS[name])
            outcome = f"{name} {'fits' if code == 0 else 'refused'}"
            if fault := check_message(code, output):
                return f"{room:,} bytes free: {fault}", outcome
            if code and "o space left" not in output:
                return f"{room:,} bytes free: {last_line(output)}", outcome
            remount(disk, 64 << 20)
            code, output = self.runner.run(disk, *COMMANDS[name])
            if code and not (name == "add" and "already" in output):
                return f"the rerun ended with {code}: {last_line(output)}", outcome
            return differ(self._result(disk, name), self.expected[name]), outcome


def can_mount(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def enter_namespace(folder: Path) -> None:
    """Starts this program again as root of a namespace of its own, where it may mount."""
    if "TORTURE_NAMESPACE" in os.environ:
        sys.exit("full needs a small file system, but this user may mount none: run it as root, or in a container.")
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["TORTURE_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv])


@contextmanager
def mounted(folder: Path, size: int):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
