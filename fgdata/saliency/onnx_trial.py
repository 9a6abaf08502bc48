"""A trial of an ONNX model in a separate process, with limits of time and memory, before a build relies on it.

A model is a program: it may loop for ever, take all memory or crash onnxruntime. The child process of `try_model` loads
it and runs it on one grey image; the parent reports what happened as an InputError.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, describe_exit

SECONDS = 120
"""Longest trial: loading the model and running it on one image."""
MEMORY = 8 << 30
"""Most address space of the trial in bytes (Linux only)."""

_PACKAGE = Path(__file__).resolve().parents[1]
_CHILD = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {__package__}.onnx_trial import run_child; run_child()"


@lru_cache(maxsize=32)
def try_model(file: Path, settings: tuple[tuple[str, str], ...], sha256: str) -> None:
    """Runs a model once on a grey image.

    Args:
        file: The ONNX file.
        settings: The user's settings, as pairs of name and text.
        sha256: Checksum of the model; a model with the same checksum and settings is tried once per process.

    Raises:
        InputError: the model cannot be used, exceeds the limits, or crashes.
    """
    arguments = [str(_PACKAGE.parent), os.fspath(file), json.dumps(settings), str(MEMORY)]
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{file} did not finish one image within {SECONDS} s; it may never finish. Use another network."
        ) from None
    try:
        report: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        how = describe_exit(child.returncode)
        last = (child.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:300]
        raise InputError(
            f"{file} crashes onnxruntime ({how}: {last}) on one image; its memory limit is {MEMORY >> 20:,} MiB. "
            "Use another network, or a smaller size: --saliency onnx:FILE,size=N"
        ) from None
    if report["fault"]:
        raise InputError(report["fault"])


def run_child() -> None:
    """The child: runs the model of its command line and prints {"fault": text or null} as JSON."""
    from .onnx_model import Model

    _, file, settings, memory = sys.argv
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(memory) if hard == resource.RLIM_INFINITY else min(int(memory), hard)  # `ulimit -v` may be lower
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    fault = None
    try:
        Model(Path(file), dict(json.loads(settings)), {Path(file).name: ""}).check_output()
    except InputError as error:
        fault = str(error)
    except MemoryError:
        fault = (
            f"{file} needs more memory for one image than the {int(memory) >> 20:,} MiB that it may use. Use another "
            "network, or a smaller size: --saliency onnx:FILE,size=N"
        )
    print(json.dumps({"fault": fault}))
