"""The distribution: an sdist, the wheel built from it, and both commands of an environment that has only that wheel."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from paths import ROOT, TINY

import fgdata

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def run(words: list[str], folder: Path) -> str:
    """Runs a command in a folder, without the checkout on its path -> its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    """The files of the checkout that belong into an sdist."""
    files = subprocess.run(
        ["git", "ls-files", "fgdata", "fgtrain"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return files.stdout.split() or pytest.skip("not a git checkout")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist, which is built from a copy of the files; without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*tracked(), "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-c", BUILD.format("sdist"), str(out)], source)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(out, filter="data")
    unpacked = next(path for path in out.iterdir() if path.is_dir())
    run([sys.executable, "-c", BUILD.format("wheel"), str(out)], unpacked)
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_file_and_the_version(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert {name for name in names if ".dist-info/" not in name} == set(tracked())
    assert (metadata["Name"], metadata["Version"]) == ("fgtrain", fgdata.__version__)
    assert {"dali", "dali-cuda12", "train"} <= set(metadata.get_all("Provides-Extra") or [])


def test_the_commands_of_an_installed_wheel_run_from_any_folder(wheel: Path, tmp_path: Path):
    """The environment has the wheel; the dependencies are those of this environment, by a path file."""
    uv = pytest.importorskip("uv", reason="uv is not installed: pip install uv").find_uv_bin()
    place, work = tmp_path / "venv", tmp_path / "work"
    venv.create(place, symlinks=True)
    work.mkdir()
    scripts = place / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(scripts / "python")
    run([uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, str(wheel)], work)
    purelib = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], work).strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    # The name of a path file's folder is added, and the path files in that folder are not read: not the editable one.
    where = run([python, "-c", "import fgdata, fgtrain; print(fgdata.__file__, fgtrain.__file__)"], work)
    assert where.count(str(Path(purelib).resolve())) == 2 or where.count(purelib) == 2
    assert "rbd" in run([str(scripts / "fgdata"), "list"], work)
    assert "cvsa" in run([str(scripts / "fgtrain"), "list"], work)
    run([str(scripts / "fgdata"), "show", str(TINY), "--out", "report.html"], work)  # a file that is not Python
    assert (work / "report.html").stat().st_size > 1000


def test_the_version_is_in_one_place():
    pinned = re.compile(rf"(?<![\d.=]){re.escape(fgdata.__version__)}(?![\d.])")
    pages = [ROOT / "pyproject.toml", ROOT / "Dockerfile", *(ROOT / ".github").rglob("*.yml")]
    sources = [path for name in ("fgdata", "fgtrain") for path in (ROOT / name).rglob("*.py")]
    found = [path for path in (*pages, *sources) if pinned.search(path.read_text("utf-8"))]
    assert found == [ROOT / "fgdata" / "__init__.py"]


def test_workflows_and_the_image_name_files_that_exist():
    words = "".join(path.read_text("utf-8") for path in (ROOT / ".github").rglob("*.yml"))
    for name in re.findall(r"\btests/[\w/.]+", words):
        assert (ROOT / name).exists(), name
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed, f".dockerignore leaves out {name}"
