"""Compiled functions work where numba's cache cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgdata import compiled

SCRIPT = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from numba.core import caching
del caching.CacheImpl._locator_classes[1:]  # as with a read-only install without a HOME
import numpy as np
from fgdata.boxes.rectangles import average_cells
print(average_cells(np.arange(16.0).reshape(4, 4), 2).tolist())
"""


@pytest.mark.parametrize("writable", [True, False])
def test_without_a_place_for_the_cache_functions_still_compile(tmp_path: Path, writable: bool):
    temporary = tmp_path if writable else tmp_path / "missing"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", SCRIPT, str(temporary)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[[2.5, 4.5], [10.5, 12.5]]"
    cached = [path for path in tmp_path.rglob("*.nbi")]
    assert bool(cached) == writable


def test_a_cache_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = compiled.private_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert compiled.private_folder() is None
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    assert compiled.private_folder() is None
