"""A disk that is too small, or a folder that is read-only, under every command that writes: one message, then the same
result once there is space or permission."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

from torture_commands import Runner, check_message, last_line
from torture_every import COMMANDS, Every


class Mounted(Every):
    """Each command runs in a file system of its own, in memory."""

    def __init__(self, folder: Path, runner: Runner):
        if not can_mount(folder.parent):
            enter_namespace(folder.parent)
        super().__init__(folder, runner)

    @contextmanager
    def disk(self, case: Path, name: str):
        """A small disk with what a command needs. What it prints goes to `case`: that must not need the disk."""
        disk = case / "disk"
        disk.mkdir()
        with mounted(disk, 64 << 20):
            self.fill(disk, name)
            (case / "output").touch()
            (disk / "output").unlink(missing_ok=True)
            (disk / "output").symlink_to(case / "output")
            yield disk


class Full(Mounted):
    """A command runs on a small disk until it is full, and again on a larger one."""

    NAME = "full"

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        name = self.choose(rng)
        with self.disk(case, name) as disk:
            used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
            room = rng.randrange(0, 600_000) & ~4095
            remount(disk, f"size={used + room}")
            code, output = self.runner.run(disk, *COMMANDS[name].words)
            outcome = f"{name} {'fits' if code == 0 else 'refused'}"
            if fault := check_message(code, output):
                return f"{room:,} bytes free: {fault}", outcome
            if code and "o space left" not in output:
                return f"{room:,} bytes free: {last_line(output)}", outcome
            remount(disk, f"size={64 << 20}")
            return self.rerun(disk, name), outcome


class ReadOnly(Mounted):
    """A command runs while its working folder, or one folder in it, is read-only, and again when it no longer is."""

    NAME = "read-only"

    def attempt(self, case: Path, rng: Random) -> tuple[str, str]:
        name = self.choose(rng)
        with self.disk(case, name) as disk:
            inside = [path for path in disk.rglob("*") if path.is_dir() and not path.is_symlink()]
            folder = rng.choice([disk, *sorted(inside)])
            where = str(folder.relative_to(disk))
            if folder != disk:
                subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
            remount(folder, "bind,ro" if folder != disk else "ro")
            code, output = self.runner.run(disk, *COMMANDS[name].words)
            outcome = f"{name} {'needs no write' if code == 0 else 'refused'}"
            remount(folder, "bind,rw" if folder != disk else "rw")
            if folder != disk:
                subprocess.run(["umount", str(folder)], check=True)
            if fault := check_message(code, output):
                return f"{where} read-only: {fault}", outcome
            if code and not any(words in output for words in ("ead-only file system", "is a mount point")):
                return f"{where} read-only: {last_line(output)}", outcome
            return self.rerun(disk, name), outcome


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
        sys.exit("This test mounts file systems, but this user may mount none: run it as root, or in a container.")
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


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
