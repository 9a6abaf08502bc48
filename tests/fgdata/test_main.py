"""The entry points of both programs: Ctrl-C at any time gives 130 and no traceback."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

from fgdata import __version__

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


def start(code: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the modules of `folder` before all others."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", code, *words] if code else [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_while_modules_are_imported(name: str, tmp_path: Path):
    """A module that both programs import first sends itself the signal."""
    (tmp_path / "tyro.py").write_text(INTERRUPT)
    module, function = SCRIPTS[name].split(":")
    script = f"import sys; from {module} import {function}; sys.exit({function}())"  # as pip writes it
    for done in (start(script, tmp_path, "list"), start("", tmp_path, "-m", name, "list")):
        assert (done.returncode, done.stdout, done.stderr) == (130, "", f"\n{name}: stopped.\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_version_is_printed_without_an_import_of_libraries(name: str, tmp_path: Path):
    for library in ("tyro", "numpy", "torch"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit('imported')")
    done = start("", tmp_path, "-m", name, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {__version__}\n", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_python_shuts_down_prints_nothing(number: str, tmp_path: Path):
    """The exit code is decided: only Ctrl-C still ends the process."""
    (tmp_path / "late.py").write_text(
        "import atexit, os, signal\n"
        f"def main():\n    atexit.register(lambda: os.kill(os.getpid(), signal.{number}))\n    return 7\n"
    )
    code = "import sys; from fgdata.errors import run_program; sys.exit(run_program('late', 'late'))"
    done = start(code, tmp_path)
    assert (done.returncode, done.stderr) == (-2 if number == "SIGINT" else 7, "")
