"""`fgtrain watch`: the values that a curve shows, in the terminal and on the page."""

import json
import os
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from owner_files import from_afar

from fgdata.files import owners
from fgdata.files.owners import owning
from fgtrain import cli
from fgtrain.runs.provenance import earlier_parts
from fgtrain.runs.rundir import OWNERS, RunDir
from fgtrain.settings.methods import ByolConfig
from fgtrain.show import watch


def make(path: Path, losses: list[float], status: str = "done", name: str = "loss") -> Path:
    run = RunDir(path)
    with RunDir.claim(path, ByolConfig()) as claimed:
        claimed.start(ByolConfig())
    run.note(status=status, name="byol")
    for number, loss in enumerate(losses, 1):
        run.append("metrics.jsonl", {"step": number, "epoch": number / 2, name: loss, "images_per_second": 9.0})
    return path


def test_a_curve_has_the_mean_of_each_column():
    assert watch.sparkline([0, 1, 2, 3], [0, 7, 3.5, 0], 0, 7, 4, columns=4) == "▁█▅▁"
    assert watch.sparkline([1, 1.5, 4], [0, 7, 7], 0, 7, 4, columns=2) == "▅█"
    assert watch.sparkline([4], [5], 5, 5, 4, columns=4) == "   ▁", "one value, and no scale"
    assert watch.sparkline([0], [5], 5, 5, 0, columns=2) == "▁ "


def test_without_a_terminal_it_prints_once(tmp_path: Path, capsys):
    a, b = make(tmp_path / "a", [4, 3, 1]), make(tmp_path / "b", [2], "running", name="[bold]<x>")
    with owning(b / OWNERS, "is training in it"):
        assert cli.main(["watch", str(a), str(b)]) == 0
    printed = capsys.readouterr().out
    assert "a: done, epoch 1.5  b: running, epoch 0.5" in printed
    assert "loss: 1 to 4" in printed
    assert "[bold]<x>: 2 to 2" in printed
    assert "images_per_second" not in printed


def test_the_page_has_the_points_and_needs_nothing_else(tmp_path: Path, monkeypatch):
    a, b = make(tmp_path / "a", [4, 3, 1], "running"), make(tmp_path / "b<i>", [2, 2])
    out, waits = tmp_path / "page.html", []

    def finish(seconds: float) -> None:
        waits.append(seconds)
        assert 'http-equiv="refresh" content="2"' in out.read_text()
        RunDir(a).note(status="done")

    monkeypatch.setattr(watch.time, "sleep", finish)
    with owning(a / OWNERS, "is training in it"):
        assert cli.main(["watch", str(a), str(b), "--out", str(out), "--every", "2", "--figures", "loss"]) == 0
    text = out.read_text()
    assert (waits, "refresh" in text, "b&lt;i&gt;" in text) == ([2.0], False, True)
    assert not re.search(r"https?://|src=|<script", text)
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.DOTALL)[0])  # pyright: ignore
    first, second = (path.attrib["d"] for path in svg.iter("path"))
    points = [tuple(map(float, p.split(","))) for p in first[1:].split("L")]
    xs, ys = zip(*points)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)  # rounded to a tenth of a pixel
    assert (ys[1] - ys[0]) * 2 == pytest.approx(ys[2] - ys[1], abs=0.2)
    assert ys[2] - ys[0] == pytest.approx(watch.HEIGHT - watch.FOOT - 8, abs=0.2)
    assert len(second.split("L")) == 2


def test_a_killed_run_is_interrupted_and_not_waited_for(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(watch.time, "sleep", lambda _: pytest.fail("nothing is training"))
    run = make(tmp_path / "a", [4, 3], "running")
    assert cli.main(["watch", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert cli.main(["watch", str(run), "--once"]) == 0
    assert cli.main(["list", str(run)]) == 0
    assert "a: interrupted, epoch 1" in (printed := capsys.readouterr().out)
    assert printed.count("interrupted") == 2


def test_a_run_whose_machine_was_restarted_is_interrupted(tmp_path: Path):
    """Its owner file tells nothing about its process any more, but has not been written for long."""
    run = make(tmp_path / "a", [1], "running")
    file = from_afar(run / OWNERS)
    assert RunDir(run).status == "running"
    old = time.time() - 3 * owners.SILENT_SECONDS
    os.utime(file, (old, old))
    assert RunDir(run).status == "interrupted"


def test_the_step_of_a_resumed_run_is_that_of_its_last_checkpoint_until_it_stops(tmp_path: Path, capsys):
    run = make(tmp_path / "a", [1], "running")
    RunDir(run).note(step=1000, checkpoint=50_000)  # it stopped at 1,000, and has been resumed
    assert cli.main(["list", str(run)]) == 0
    assert "50,000" in capsys.readouterr().out
    assert earlier_parts(RunDir(run).facts)[-1]["step"] == 50_000


def test_the_runs_of_a_study_are_named_where_its_folder_is_given(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        make(tmp_path / "studies" / "mine" / name, [1])
    for command in (["watch"], ["compare"], ["list"], ["eval", "knn"], ["export"]):
        assert cli.main([*command, "studies/mine", *["out.pth"] * (command == ["export"])]) == 2
        assert "Runs in it: studies/mine/a, studies/mine/b." in capsys.readouterr().err, command


def test_a_run_that_does_not_exist_is_called_that(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "a", [1])
    for command in (["watch"], ["compare"], ["list"], ["show", "views"], ["show", "curves"]):
        assert cli.main([*command, "runs/b"]) == 2
        assert "runs/b does not exist. Runs under runs/: a." in capsys.readouterr().err, command


def test_the_names_of_runs_are_listed_in_full(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    name = "contrastive-crop-own-birds-of-the-north-resnet18-64px"
    make(tmp_path / "runs" / name, [1])
    assert cli.main(["list", f"runs/{name}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.split("│")[1].strip() for line in lines if line.startswith("│")) == f"runs/{name}"


def test_a_run_that_has_just_started(tmp_path: Path, capsys):
    assert cli.main(["watch", str(make(tmp_path / "a", [])), "--once"]) == 0
    assert "no metrics yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ([], "is required"),
        (["."], ". is not a run directory: it has no config.json."),
        (["a", "--figures", "lost"], "--figures is lost; allowed: images_per_second, loss."),
        (["a", "--every", "0"], "--every is 0.0; allowed: 0.1 to 3,600."),
        (["a", "--out", "a.png"], "--out is a.png; allowed: a file whose name ends in .html, .htm."),
    ],
)
def test_what_cannot_be_watched(flags: list[str], error: str, tmp_path: Path, capsys, monkeypatch):
    make(tmp_path / "a", [1])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch", *flags]) == 2
    printed = capsys.readouterr()
    assert error in " ".join((printed.err + printed.out).split()) or not flags


@pytest.mark.parametrize("value", [float("nan"), "x", None])
def test_a_value_that_is_no_number_adds_no_point_and_is_named_once(value, tmp_path: Path, capsys):
    run = make(tmp_path / "a", [1.0])
    line = json.dumps({"step": 1, "epoch": 1, "loss": value, "align": 2.0})
    (run / "metrics.jsonl").write_text(f"{line}\n" * 3)
    for _ in range(2):
        (only,) = watch.read_runs([run])
        assert only.series == {"align": ([1] * 3, [2.0] * 3)}
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.search(r"a/metrics\.jsonl, line 1 has loss = .*finite number, and so have 2 other lines", warning)


def test_an_incomplete_line_is_named_unless_it_is_being_written(tmp_path: Path, capsys):
    run = make(tmp_path / "a", [1.0, 2.0])
    file = run / "metrics.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second[:20]}")
    assert watch.read_runs([run])[0].series["loss"][1] == [1.0]
    assert not capsys.readouterr().err
    file.write_text(f"{first}\n{{broken\n{second}\n")
    assert watch.read_runs([run])[0].series["loss"][1] == [1.0, 2.0]
    found = capsys.readouterr().err
    assert "a/metrics.jsonl, line 2 is incomplete: '{broken'. Training wrote it: delete that line." in found
    assert "evaluation" not in found
