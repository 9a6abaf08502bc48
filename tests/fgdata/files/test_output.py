"""No command writes its output over something else: a file of a set or a run, an input, a folder, a device."""

import os
import shutil
from pathlib import Path

import pytest
from shard_files import hashes

from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files.output import check_output
from fgdata.files.swap import replacing
from fgtrain.cli import main as fgtrain


@pytest.fixture
def copy(drawn_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn_set, tmp_path / "set"))


def test_show_writes_over_no_file_of_the_set(copy: Path, capsys: pytest.CaptureFixture[str]):
    before = hashes(copy)
    for name in (*before, "build.jsonl", "train-000009.tar", "page"):
        assert main(["show", str(copy), "--out", str(copy / name)]) == 2
        assert f"--out is {copy / name}; allowed: a file whose name ends in .html" in capsys.readouterr().err
    assert hashes(copy) == before
    assert main(["show", str(copy), "--out", str(copy / "page.HTML")]) == 0


def test_pictures_write_over_no_file_of_a_set_or_a_run(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "run.json", "metrics.jsonl", "results.jsonl", "log.txt", "checkpoints/state.pt"):
        (run / name).write_text("{}")
    before = hashes(copy) | hashes(run)
    outs = [*(copy / name for name in hashes(copy)), *(run / name for name in hashes(run))]
    others = [(what, out) for what in ("gradcam", "pairs", "curves") for out in (outs[0], outs[-1])]
    for what, out in [*(("views", out) for out in outs), *others]:
        assert fgtrain(["show", what, str(run), "--out", str(out)]) == 2
        assert f"--out is {out}; allowed: a file whose name ends in .png" in capsys.readouterr().err
    assert hashes(copy) | hashes(run) == before


def test_an_output_replaces_only_a_regular_file_of_its_kind_that_is_not_an_input(tmp_path: Path):
    given, same, other = tmp_path / "given.png", tmp_path / "same.png", tmp_path / "other.png"
    given.write_text("")
    os.link(given, same)
    other.write_text("")
    check_output(other, (".png",), "--out", [given, tmp_path / "missing.png"])
    check_output(tmp_path / "new.png", (".png",), "--out", [given])
    for path in (given, same, tmp_path / "." / "given.png"):
        with pytest.raises(InputError, match="is the file that this command reads"):
            check_output(path, (".png",), "--out", [given])
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        check_output(tmp_path / "pipe.png", (".png",), "--out")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "folder.png", (".png",), "--out")


@pytest.mark.parametrize("inner", ["inner", "a/b", "link/inner"])
def test_a_new_set_inside_the_old_one_is_refused(tmp_path: Path, inner: str):
    source = tmp_path / "set"
    source.mkdir()
    (tmp_path / "set" / "link").symlink_to(source)
    with pytest.raises(InputError, match="is inside"), replacing(source, source / inner):
        pass
    assert [entry.name for entry in source.iterdir()] == ["link"]
    with replacing(source, tmp_path / "set2"):
        pass
    assert (tmp_path / "set2").is_dir()
