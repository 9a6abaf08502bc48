"""--compile: what torch.compile needs of this machine, and how its failure is reported."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import split

import torch

from fgdata.errors import InputError

PLAIN = "Omit --compile to train without torch.compile"


def check_compiler(device: torch.device) -> None:
    """InputError without the compiler that torch.compile calls: one for C++ on a CPU; for C on a GPU, which Triton
    uses. The variables CXX and CC name others than the usual ones."""
    language, variable, usual = "C++", "CXX", ("clang++" if sys.platform == "darwin" else "g++",)
    if device.type == "cuda":
        language, variable, usual = "C", "CC", ("gcc", "clang")
    elif device.type != "cpu":
        return
    chosen = split(os.environ.get(variable, ""))[:1]
    if not any(map(shutil.which, chosen or usual)):
        looked = f"{variable} names {chosen[0]}, which was not found" if chosen else f"not found: {' or '.join(usual)}"
        raise InputError(
            f"--compile needs a {language} compiler on {device.type}, and this machine has none ({looked}). {PLAIN}. "
            "Or install one (Debian and Ubuntu: apt-get install g++; conda: conda install gxx), or name it: "
            f"export {variable}=/path/to/{usual[0]}"
        )


@contextmanager
def compile_failures_named() -> Iterator[None]:
    """InputError if torch.compile cannot compile what the block calls first."""
    try:
        yield
    except Exception as error:
        if "BackendCompilerFailed" not in {kind.__name__ for kind in type(error).__mro__}:
            raise
        inner = getattr(error, "inner_exception", error)
        reason = next(iter(str(inner).splitlines()), "") or type(inner).__name__
        raise InputError(f"--compile: torch.compile cannot compile this network here ({reason}). {PLAIN}.") from error
