"""The `fgdata` command as a user types it: exit codes, messages, and a start without heavy imports."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from shard_files import boxes

from fgdata.boxes.geometry import CENTRED, iou
from fgdata.building.build import build
from fgdata.building.log import LOG
from fgdata.cli import main
from fgdata.datasets import Dataset, Record, read
from fgdata.errors import InputError
from fgdata.images import encode_jpeg
from fgdata.report.page import write_report
from fgdata.report.score import find_disagreements, read_boxes, score
from fgdata.shards.reader import ShardSet, SplitReader, box, meta


@pytest.mark.parametrize("module", ["fgdata.cli", "fgtrain.cli"])
def test_help_imports_nothing_heavy(module):
    script = f"""
import sys
from {module} import main
for command in ("", *sys.argv[1:]):
    try:
        main([*command.split(), "--help"])
    except SystemExit as done:
        assert not done.code, command
heavy = sorted({{"torch", "torchvision", "timm", "cv2", "nvidia.dali", "numba", "scipy", "h5py"}} & set(sys.modules))
assert not heavy, heavy
"""
    words = {
        "fgdata.cli": ["build-shards", "rebox", "add", "check", "score", "show", "list"],
        "fgtrain.cli": ["run", "run cvsa", "eval", "eval knn", "eval linear", "show", "list", "export"],
    }
    done = subprocess.run([sys.executable, "-c", script, *words[module]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("", *words[module]):
        assert f"usage: {module.removesuffix('.cli')} {command}".strip() in done.stdout


def test_the_two_commands_of_the_readme_without_a_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FGDATA_ROOT", raising=False)
    assert main(["build-shards", "--dataset", "cub", "--saliency", "rbd"]) == 2
    message = capsys.readouterr().err
    for part in (str(tmp_path / "data" / "cub"), "FGDATA_ROOT", "bounding_boxes.txt", "caltech.edu", "--root FOLDER"):
        assert part in message
    assert not (tmp_path / "shards").exists()


def test_build_check_score_show_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build = "build-shards --classes 2 --images-per-class 6 --size 96 --saliency spectral-residual gt --jobs 1".split()
    with monkeypatch.context() as patch:
        patch.setattr("fgdata.commands.common.LARGE_SAMPLE", 1000)
        assert main(build) == 0
    output = capsys.readouterr().out
    assert "12 samples of 2 classes (8 train, 4 test), 12 of them" in output
    assert "the images have their original size" in output
    assert "--max-side 384 makes a smaller set" in output
    assert main(build) == 0
    assert "already complete: 12 samples of 2 classes (8 train, 4 test)" in capsys.readouterr().out
    assert main([*build, "--tau", "0.5"]) == 2
    assert re.search('objective.tau: "own" .*0.5', capsys.readouterr().err)
    assert main(["check", "shards/drawn"]) == 0
    assert "12 samples in 2 tars" in capsys.readouterr().out
    assert main(["score", "shards/drawn", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["detectors"]) == {"spectral-residual", "gt"}
    assert main(["score", "shards/drawn"]) == 0
    assert "centred 70 % box" in capsys.readouterr().out
    assert main(["show", "shards/drawn"]) == 0
    assert Path("shards/drawn/report.html").is_file()
    assert main(["check", "shards/drawn"]) == 0, "a report in the folder is not a fault"
    capsys.readouterr()
    assert main(["list"]) == 0
    assert "drawn: 8 train + 4 test; boxes spectral-residual, gt" in capsys.readouterr().out
    tar = Path("shards/drawn/train-000000.tar")
    tar.write_bytes(tar.read_bytes()[:-1])
    assert main(["check", "shards/drawn"]) == 1
    assert "train-000000.tar is damaged" in capsys.readouterr().err


def test_a_set_can_be_named_by_a_dot(tmp_path, monkeypatch, capsys):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    words = (
        "build-shards --classes 2 --images-per-class 4 --size 64 --saliency spectral-residual --jobs 1 --out .".split()
    )
    assert main(words) == 0
    assert "--max-side" not in capsys.readouterr().out  # the images are small
    assert main(["check", "."]) == 0
    assert main(["show", "."]) == 0
    assert "<title>birds" in Path("report.html").read_text("utf-8")
    assert main(["show", ".", "--out", "."]) == 2
    assert "--out FILE" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "birds"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "no shard set at nowhere.*fgdata list"),
        (["check", "file"], "no shard set at file: it is a file, not a folder.*fgdata list"),
        (["score", "nowhere"], "no shard set at nowhere.*fgdata list"),
        (["push", "nowhere", "hf://datasets/a/b"], "no shard set at nowhere.*fgdata list"),
        (["show", "nowhere"], "no shard set at nowhere.*fgdata list"),
        (["build-shards", "--dataset", "birds"], "'birds'.* drawn, cub"),
        (["build-shards", "--dataset", "cub", "--size", "3"], "cub has no --size; it takes --classes, "),
        (["build-shards", "--saliency", "magic"], "'magic'"),
        (["build-shards", "--classes", "1"], "--classes.* 1"),
        (["build-shards", "--tau", "-1"], "--tau"),
        (["build-shards", "--min-area", "0.3"], "--min-area 0.3.*max-excess"),
        (["build-shards", "--objective", "max-mean", "--tau", "0.75"], "--tau 0.75.*max-mean"),
        (["build-shards", "--objective", "max-mean", "--k", "1", "--min-area", "0.3"], "--k.*--min-area"),
    ],
)
def test_invalid_arguments_exit_with_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_score_opens_and_reads_the_set_once(drawn_set, monkeypatch, capsys):
    read, opened = [], []
    whole, each = ShardSet.open, SplitReader.read
    monkeypatch.setattr(ShardSet, "open", lambda *words: (opened.append(1), whole(*words))[1])
    monkeypatch.setattr(SplitReader, "read", lambda *words, **more: (read.append(1), each(*words, **more))[1])
    assert main(["score", str(drawn_set)]) == 0
    assert (len(opened), len(read)) == (1, 48)


def test_score_is_the_mean_over_every_sample(drawn_set):
    shards = ShardSet.open(drawn_set)
    scores = score(drawn_set)
    count, spectral, centred = 0, [], []
    for split in shards.splits:
        for i in range(shards.splits[split]):
            sample = shards.split(split).read(i)
            [truth] = meta(sample)["boxes"]
            spectral.append(float(iou(box(sample, "spectral-residual"), np.array(truth))))
            centred.append(float(iou(CENTRED, np.array(truth))))
            count += 1
    row = scores["detectors"]["spectral-residual"]
    assert row["n"] == count == 48
    assert row["mean_iou"] == pytest.approx(np.mean(spectral), abs=1e-6)
    assert row["corloc"] == pytest.approx(np.mean(np.array(spectral) >= 0.5))
    assert row["corloc_70"] == pytest.approx(np.mean(np.array(spectral) >= 0.7))
    assert row["corloc_90"] == pytest.approx(np.mean(np.array(spectral) >= 0.9))
    assert row["trained_on"] == "nothing"
    assert 0 < row["seconds"] < 60
    gt = {"mean_iou": pytest.approx(1, abs=1e-5), "corloc": 1, "corloc_70": 1, "corloc_90": 1, "n": 48}
    assert scores["detectors"]["gt"] == gt | {"trained_on": "it is the ground truth", "seconds": None}
    assert scores["baselines"]["centred"]["mean_iou"] == pytest.approx(np.mean(centred), abs=1e-6)


class Page(HTMLParser):
    """Counts the tags of a page and collects every URL it fetches."""

    def __init__(self):
        super().__init__()
        self.tags: dict[str, int] = {}
        self.fetches: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.fetches += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]


def test_boxes_against_those_of_a_detector(drawn_set, capsys):
    truth, other = score(drawn_set), score(drawn_set, against="gt")
    assert list(other["detectors"]) == ["spectral-residual"]
    spectral = other["detectors"]["spectral-residual"]
    assert spectral["mean_iou"] == pytest.approx(truth["detectors"]["spectral-residual"]["mean_iou"], abs=1e-6)
    assert spectral["n"] == 48
    assert main(["score", str(drawn_set), "--against", "gt"]) == 0
    assert "against those of gt" in " ".join(capsys.readouterr().out.split())
    assert main(["score", str(drawn_set), "--against", "rbd"]) == 2
    assert "no boxes by 'rbd'; it has: spectral-residual, gt. Choose one of them, or add" in capsys.readouterr().err
    assert main(["score", str(drawn_set), "--against", "nobody"]) == 2
    assert "--saliency" not in capsys.readouterr().err, "it is not a detector, so it cannot be added"


def test_a_set_without_truth_is_scored_against_a_detector_and_shows_where_two_disagree(tmp_path):
    birds = read("drawn", classes=2, images_per_class=4, size=96)
    birds = replace(
        birds, records=tuple(replace(record, boxes=()) for record in birds.records), load=WithoutBoxes(birds)
    )
    build(birds, tmp_path / "set", saliency=("spectral-residual", "vsf"))
    with pytest.raises(InputError, match="no ground-truth boxes.*--against spectral-residual"):
        score(tmp_path / "set")
    row = score(tmp_path / "set", against="vsf")["detectors"]["spectral-residual"]
    ours, theirs = (boxes(tmp_path / "set", name) for name in ("spectral-residual", "vsf"))
    overlap = [float(iou(a, b)) for a, b in zip(ours, theirs)]
    assert row["mean_iou"] == pytest.approx(np.mean(overlap))
    scored = read_boxes(ShardSet.open(tmp_path / "set"))
    expected = [i for i in sorted(range(len(overlap)), key=lambda i: overlap[i])[:3] if overlap[i] < 0.5]
    assert find_disagreements(scored, 3) == {("spectral-residual", "vsf"): expected}
    page = write_report(tmp_path / "set", tmp_path / "report.html").read_text()
    assert ("spectral-residual and vsf disagree most (" in page) == bool(expected)


class WithoutBoxes:
    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, record):
        return self.dataset.load(record)[0], ()


def test_report_is_one_file_that_fetches_nothing(drawn_set, tmp_path):
    out = write_report(drawn_set, tmp_path / "report.html", samples=10)
    page = Page()
    page.feed(out.read_text("utf-8"))
    assert page.fetches == []
    # 10 spread over the classes, the 12 worst of spectral-residual and the 8 slowest, some of them the same images.
    assert 12 <= page.tags["img"] <= 30
    assert page.tags["option"] >= 4 + 2
    assert "{{" not in out.read_text("utf-8")
    with pytest.raises(InputError, match="no folder"):
        write_report(drawn_set, tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match="--samples 0"):
        write_report(drawn_set, tmp_path / "r.html", samples=0)


@pytest.mark.slow
def test_report_in_a_browser_filters_its_cards(drawn_set, tmp_path):
    """Chromium runs the script of the page: it shows the sample first and the number of cards."""
    browser = shutil.which("chromium") or pytest.skip("no chromium on the PATH")
    out = write_report(drawn_set, tmp_path / "report.html", samples=10)
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    words = [browser, *quiet.split(), "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*words, "--dump-dom", out.as_uri()], capture_output=True, timeout=60, check=True)
    page = done.stdout.decode()
    cards = re.findall(r"<figure class=\"card\"[^>]*>", page)
    hidden = [card for card in cards if "display: none" in card]
    assert len(cards) - len(hidden) == 10
    assert ">10 shown<" in page


def test_report_states_the_cost_of_reencoding_and_embeds_only_a_sample(tmp_path):
    """800 samples of 40 classes: the page shows a sample, the worst and the slowest; its statistics cover all."""
    records = [Record(f"{i}", f"{i}.jpg", i % 40, f"class {i % 40}", "train", None) for i in range(800)]
    noise = Dataset("noise", tuple(f"class {i}" for i in range(40)), tuple(records), Noise())
    build(noise, tmp_path / "set", saliency=("spectral-residual", "gt"), max_side=32, quality=60)
    page = write_report(tmp_path / "set", tmp_path / "set" / "report.html", samples=20).read_text()
    cards = page.count("<figure class=card")
    assert 20 <= cards <= 20 + 12 + 8
    assert f"{cards} of 800 images are on this page" in page
    assert "800 of 800 (--max-side 32, --quality 60, --chroma 420)" in page
    before = 800 * len(Noise()(records[0])[0]) / 1e6
    reader = ShardSet.open(tmp_path / "set").split("train")
    after = sum(len(reader.read(i)["jpg"]) for i in range(800)) / 1e6
    assert f"{before:,.1f} MB before, {after:,.1f} MB stored ({after / before - 1:+.0%})" in page
    assert "ms per image" in page
    (tmp_path / "set" / LOG).unlink()
    page = write_report(tmp_path / "set", tmp_path / "set" / "report.html", samples=20).read_text()
    assert "800 of 800" in page
    assert "ms per image" not in page, "a set without its log still has a report"


class Noise:
    """Loads the same noise for every record, with one box."""

    def __call__(self, record):
        rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        return encode_jpeg(rgb, 90), ((8.0, 6.0, 32.0, 24.0),)


def test_report_of_a_damaged_set_is_refused(drawn_set, tmp_path):
    copy = Path(shutil.copytree(drawn_set, tmp_path / "copy"))
    tar = sorted(copy.glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    data[600] ^= 4
    tar.write_bytes(data)
    with pytest.raises(InputError, match="is damaged: sample"):
        write_report(copy, copy / "report.html")
    assert not (copy / "report.html").exists()


def test_a_report_that_cannot_be_written_is_refused_and_leaves_nothing(drawn_set, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder.*--out FILE"):
        write_report(drawn_set, tmp_path / "folder", samples=4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fgdata.report.page.write_atomic", full)
    with pytest.raises(InputError, match="r.html.*No space left on device.*--out FILE"):
        write_report(drawn_set, tmp_path / "r.html", samples=4)


def test_fgtrain_without_torch_names_the_command_that_installs_it(tmp_path):
    script = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch())
from fgtrain.cli import main
sys.exit(main(["export", "runs/a", "a.safetensors"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_recipe_lists_the_known_ones(capsys):
    from fgtrain.cli import main as fgtrain

    assert fgtrain(["run", "nosuch"]) == 2
    assert re.search("'nosuch'.* cvsa, ", capsys.readouterr().err)
