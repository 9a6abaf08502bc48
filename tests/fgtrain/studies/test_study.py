"""A whole study: its settings are checked first, it runs, is killed, resumes, and writes its tables."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from paths import ROOT

from fgdata.building.build import build
from fgdata.building.parts import Part
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.shards.reader import ShardSet
from fgtrain import cli
from fgtrain.runs.rundir import RunDir
from fgtrain.settings.studying import Study as Flags
from fgtrain.studies import command, declaration, progress, record, running, tables
from fgtrain.studies.plan import is_finished, make
from fgtrain.studies.progress import Progress
from fgtrain.studies.scaling import scale
from fgtrain.studies.traces import last_step

STUDY = """
title = "Tiny"
base = "MoCo v2"
[settings]
epochs = 2
data.batch_size = 8
data.detector = "gt"
model.width = 8
views.size = 32
moco.dim = 8
byol.hidden = 16
byol.dim = 8
align.hidden = 16
align.dim = 8
[[columns]]
evaluation = "knn"
sets = ["drawn"]
settings = { k = 3 }
[[columns]]
evaluation = "cost"
figure = "parameters"
sets = ["drawn"]
[[rows]]
name = "MoCo v2"
recipe = "moco"
paper = [63.21, ""]
[[rows]]
name = "random"
start = "random"
"""
CVSA = '[[rows]]\nname = "CVSA"\nrecipe = "cvsa"\n'


@pytest.fixture
def words(tmp_path: Path, drawn_set: Path) -> list[str]:
    (tmp_path / "tiny.toml").write_text(STUDY)
    given = ["study", str(tmp_path / "tiny.toml"), "--data.shards", str(drawn_set), "--out", str(tmp_path / "out")]
    return [*given, "--device", "cpu"]


def test_a_row_that_cannot_work_fails_before_any_row_trains(words: list[str], tmp_path: Path, capsys):
    (tmp_path / "tiny.toml").write_text(STUDY + CVSA)
    assert cli.main([*words, "--views.size", "48"]) == 2
    fault = capsys.readouterr().err
    assert "'CVSA': --views.size is 48; allowed: a multiple of 32" in fault
    assert "'MoCo v2'" not in fault
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--data.batch-size", "64"]) == 2
    assert "allowed: 2 to 32" in capsys.readouterr().err
    assert cli.main([*words, "--settings", "knn.k=33"]) == 2
    assert "--settings knn.k is 33; allowed: 1 to 32, the images of the train split" in capsys.readouterr().err
    assert cli.main([*words, "--settings", "knn.k=32", "--tune"]) == 2
    assert "allowed: 1 to 31, the images of the train split but the scored one, with --tune" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--init", str(tmp_path / "none.pth")]) == 2
    assert "'random': the weights" in capsys.readouterr().err


def test_parts_count_from_0_as_those_of_build_shards_and_have_every_run_once(tmp_path: Path):
    """cvsa-table-2 has first stages, which every part that needs them lists."""
    made = make(scale(declaration.load("cvsa-table-2"), Flags("cvsa-table-2")), tmp_path)
    stages = {job.needs for job in made.jobs.values()} - {None}
    for count in (1, 2, 9, 100):
        parts = [command.part(made, Flags("x", part=f"{index}/{count}")) for index in range(count)]
        own = [job.folder for jobs in parts for job in jobs if job.folder not in stages]
        assert sorted(own) == sorted({*made.jobs} - stages)
        for jobs in parts:
            assert {job.needs for job in jobs} - {None} <= {job.folder for job in jobs}
        for out_of_range in (f"{count}/{count}", f"-1/{count}", f"{count + 1}/{count}"):
            with pytest.raises(InputError, match="--part"):
                Flags("x", part=out_of_range)
        with pytest.raises(InputError, match="--part"):
            Part(count, count)
    for text in ("", "1", "0/0", "a/2", "0/2/3", " 0/2", "٠/٢"):
        with pytest.raises(InputError, match=r"--part is .*allowed: I/N with I from 0 to N - 1"):
            Flags("x", part=text)


def row(name: str, recipe: str, settings: str) -> str:
    return f'[[rows]]\nname = "{name}"\nrecipe = "{recipe}"\nsettings = {{ {settings} }}\n'


def test_what_a_row_reads_is_checked_before_any_row_trains(words: list[str], tmp_path: Path, drawn_set: Path, capsys):
    """Maps, boxes of the test split, and the sets of backgrounds; the set itself may be one of them."""
    cases = (
        (row("DiLo", "dilo", 'data.detector = "spectral-residual"'), "has no saliency maps by spectral-residual"),
        (row("CVSA", "cvsa", 'data.detector = "u2netp"'), "has no boxes by 'u2netp'"),
        (
            row("SS", "byol", 'views.crop = "saliency-swap", data.backgrounds = ["coco"]'),
            "not built: shards/coco (COCO). Build it, or name others with --data.shards: fgdata build-sh",
        ),
        (
            row("BYOL", "byol", 'data.backgrounds = ["drawn"]'),
            "--data.backgrounds is given, but --views.crop rrc shows",
        ),
        (row("Foreground", "foreground", 'data.backgrounds = ["drawn"]'), "cannot be used for its own backgrounds"),
    )
    for text, message in cases:
        (tmp_path / "tiny.toml").write_text(STUDY + text)
        assert cli.main(words) == 2
        fault = capsys.readouterr().err
        assert message in fault, text
        assert "nothing was started" in fault
    bare = tmp_path / "bare"
    files = [f"bare/{label}/{i}.jpg" for label in "ab" for i in range(8)]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / file), np.full((48, 48, 3), 90, np.uint8))
    build(read("folder", bare), tmp_path / "folder-set", saliency=("whole",), workers=1)
    localization = STUDY.replace('evaluation = "knn"', 'evaluation = "localization"').replace(
        "settings = { k = 3 }", ""
    )
    (tmp_path / "tiny.toml").write_text(localization)
    words[words.index(str(drawn_set))] = str(tmp_path / "folder-set")
    assert cli.main([*words, "--rows", "random", "--settings", "data.detector=whole"]) == 2
    assert "no " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_row_may_have_its_own_set_behind_its_patches(words: list[str], tmp_path: Path, monkeypatch):
    own = row("SS", "byol", 'views.crop = "saliency-swap", data.backgrounds = ["drawn"]')
    (tmp_path / "tiny.toml").write_text(STUDY + own)
    started = []
    monkeypatch.setattr(running, "run", lambda jobs, *_: started.extend(job.name for job in jobs) or {})
    assert cli.main([*words, "--rows", "SS"]) == 0
    assert "ss-seed0" in started, "the checks let it pass"


def test_a_dry_run_estimates_the_hours_of_a_gpu_that_is_not_here(words: list[str], monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main([*words, "--dry-run", "--device", "cuda"]) == 0
    assert "40,000 GFLOP/s of a GPU, an assumption" in capsys.readouterr().out
    assert cli.main([*words, "--dry-run", "--device", "cuda:x"]) == 2
    assert cli.main([*words, "--device", "cuda"]) == 2
    assert "--device cuda is not available" in capsys.readouterr().err


def test_a_dry_run_counts_and_starts_nothing(words: list[str], tmp_path: Path, capsys):
    assert cli.main([*words, "--seeds", "0", "1", "2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "To do: 3 runs, 4 evaluations." in text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert ["MoCo v2", "moco", "3", ""] in cells, "runs, and those that are done"
    assert ["random", "random, as it is", "", ""] in cells, "nothing is trained"
    assert "counted" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "what"), [("manifest.json", "a shard set"), ("config.json", "a training run")])
def test_the_folder_of_a_study_is_no_set_and_no_run(words: list[str], tmp_path: Path, file: str, what: str, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).touch()
    assert cli.main([*words, "--tables"]) == 2
    assert f"is {what}. Name another folder for the study" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file]


def test_tables_say_whose_results_they_leave_out(words: list[str], tmp_path: Path, capsys):
    """A result belongs to a set with a digest, so those of a set that is not there cannot be told from others."""
    words[words.index("--data.shards") + 1] = str(tmp_path / "gone")
    assert cli.main([*words, "--tables"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Results on {tmp_path / 'gone'} are left out of the table and of results.jsonl" in text


def test_progress_is_printed_while_the_runs_run_and_no_set_is_opened_for_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As into a file of nohup or Slurm, where nobody would wait for the end of the study."""
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "BETWEEN_ESTIMATES", 0.0)
    printed = []

    def run(jobs, commands, launch, workers, report, stop):
        monkeypatch.setattr(ShardSet, "open", lambda *_: pytest.fail("the progress opens a shard set"))
        report([jobs[0], jobs[-1]], 3)
        report([], 1)
        printed.append(capsys.readouterr().out)
        return {jobs[0].folder: "ends the study before its tables"}

    monkeypatch.setattr(running, "run", run)
    assert cli.main([*words, "--seeds", "0", "1", "2"]) == 2
    lines = printed[0].splitlines()
    assert [re.sub("about .* left", "about X left", line) for line in lines] == [
        "1 of 4 jobs done, about X left: moco-v2-seed0 (step 0), random (evaluating)",
        "3 of 4 jobs done, about X left: waiting",
    ]


@pytest.mark.slow
def test_a_study_is_stopped_resumed_and_written(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGTERM stops the run with a checkpoint; the same command then finishes it and writes the tables."""
    out, words = tmp_path / "out", [*words, "--rows", "MoCo v2"]
    run = out / "moco-v2-seed0"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with monkeypatch.context() as patch:

        def stop_once(self: Progress, running: list, left: int) -> None:
            if last_step(run) and running:
                os.kill(os.getpid(), signal.SIGTERM)
                patch.setattr(Progress, "report", lambda *_: None)

        patch.setattr(Progress, "report", stop_once)
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, "--epochs", "16"])
    assert stopped.value.code == 0
    assert RunDir(run).facts["status"] in ("stopped", "done")
    assert RunDir(run).last_checkpoint is not None
    assert not (out / "table.md").exists()
    assert cli.main([*words, "--epochs", "16", "--tables"]) == 0
    assert "Not measured yet, " in (out / "table.md").read_text()
    assert not (run / "results.jsonl").exists(), "--tables measures nothing"
    assert cli.main([*words, "--epochs", "16"]) == 0
    assert is_finished(run)
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    line = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    assert float(rows[0]["mean"]) == pytest.approx(100 * line["accuracy"], abs=1e-3)
    assert rows[0]["paper"] == "63.21"
    assert "epochs 16" in (out / "table.md").read_text()
    kept = record.read(out)
    assert tables.as_csv(record.table(kept)) == (out / "table.csv").read_text(), "the results make the same table"
    assert {line["evaluation"] for line in kept.results} == {"knn", "cost", "training"}
    assert all(
        line["commit"] and line["versions"]["torch"] for line in kept.results if line["evaluation"] == "training"
    )
    assert kept.commands == (f"fgtrain study {words[1]} --data.shards {words[3]} --epochs 16 --rows 'MoCo v2'",)
    before = (run / "results.jsonl").read_bytes()
    assert cli.main([*words, "--epochs", "16"]) == 0, "a finished study only writes its tables again"
    assert (run / "results.jsonl").read_bytes() == before
    assert cli.main([*words, "--epochs", "3"]) == 2, "another setting needs another folder"


def test_a_stopped_study_ends_with_0_and_after_ctrl_c_with_130(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    sent = iter((signal.SIGTERM, signal.SIGINT))  # not SIGHUP: under nohup it is ignored
    monkeypatch.setattr(running, "run", lambda *_: os.kill(os.getpid(), next(sent)))
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--rows", "MoCo v2"])
    assert stopped.value.code == 0
    assert cli.main([*words, "--rows", "MoCo v2"]) == 130
    printed = capsys.readouterr()
    assert [text.lower().count("stopped.") for text in printed] == [2, 0], "one line each"


def test_a_run_stops_when_its_study_is_gone(tmp_path: Path):
    """The child ends by SIGTERM when standard input is closed, as by a kill -9 of its parent."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == -signal.SIGTERM


CHILD = "import time\nfrom fgtrain.studies.child import _stop_with_parent\n_stop_with_parent()\ntime.sleep(60)"
