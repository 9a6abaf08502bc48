"""Agreement of detectors: figures compared with loops; what the commands say about a set without ground truth."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgdata.boxes.geometry import iou
from fgdata.building.build import build
from fgdata.cli import main
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.report.agreement import agree, join
from fgdata.report.page import write_report
from fgdata.report.score import Scored, describe_detectors, read_boxes, score
from fgdata.shards.reader import ShardSet


def scored(boxes: dict[str, np.ndarray], fallback: dict[str, list[str | None]] | None = None) -> Scored:
    n = len(next(iter(boxes.values())))
    nothing = {name: np.full(n, np.nan) for name in (*boxes, "whole", "centred")}
    none: dict[str, list[str | None]] = {name: [""] * n for name in boxes}
    ids, truth = [str(i) for i in range(n)], [np.zeros((0, 4))] * n
    return Scored(
        np.array(["train"] * n), np.arange(n), ids, np.zeros(n), truth, boxes, none | (fallback or {}), nothing
    )


def random_boxes(seed: int, n: int) -> np.ndarray:
    low, size = np.random.default_rng(seed).uniform(0, 0.5, (2, n, 2))
    return np.hstack([low, size + 0.01]).astype(np.float32)


def test_agreement_is_the_mean_over_pairs_and_images():
    boxes = {name: random_boxes(i, 7) for i, name in enumerate(("rbd", "gs", "vsf", "gt"))}
    found = agree(scored(boxes))
    names = ["rbd", "gs", "vsf"]  # not gt
    for (a, b), mean in found.pairs.items():
        assert names.index(a) < names.index(b)
        assert mean == pytest.approx(sum(float(iou(x, y)) for x, y in zip(boxes[a], boxes[b])) / 7)
    assert len(found.pairs) == 3
    for i in range(7):
        each = [float(iou(boxes[a][i], boxes[b][i])) for a, b in found.pairs]
        assert found.mean[i] == pytest.approx(sum(each) / 3)


def test_whole_and_flat_boxes_are_counted_and_warned_of():
    boxes = np.tile(np.array([0.1, 0.1, 0.5, 0.5], np.float32), (10, 1))
    boxes[:3] = (0, 0, 1, 1)
    boxes[3] = (0, 0, 1, 0.96)
    found = agree(scored({"rbd": boxes, "gs": boxes[::-1] * 0.5}, {"rbd": ["flat"] * 2 + [""] * 8}))
    assert (found.whole, found.flat) == ({"rbd": 0.4, "gs": 0.0}, {"rbd": 0.2, "gs": 0.0})
    assert [line.split(":")[0] for line in found.warnings] == ["rbd"]
    whole = scored({"whole": np.tile(np.array([0, 0, 1, 1], np.float32), (10, 1))}, {"whole": ["flat"] * 10})
    assert agree(whole).warnings == []
    assert "40% of its boxes are the whole image (20% from flat maps)" in found.warnings[0]


def test_one_detector_has_no_pairs():
    found = agree(scored({"rbd": random_boxes(0, 4)}))
    assert found.pairs == {}
    assert np.isnan(found.mean).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of six images without labels and boxes, and one of the same images with other boxes."""
    root = tmp_path_factory.mktemp("flat")
    (root / "photos").mkdir()
    for i in range(6):
        pixels = np.full((48, 64, 3), 90, np.uint8)
        pixels[8 + 3 * i : 28 + 3 * i, 10:40] = (250, 40 * i, 10)
        Image.fromarray(pixels).save(root / "photos" / f"IMG_{i}.png")
    dataset = read("flat", root / "photos")
    detectors = ("spectral-residual", "vsf")
    build(dataset, root / "set", saliency=detectors, keep_maps=True, workers=1)
    return root


def test_score_shows_agreement_without_truth(photos: Path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert main(["score", "set"]) == 0
    said = capsys.readouterr().out
    assert "no ground-truth boxes" in said
    assert "fgdata show set" in said
    assert re.search(r"spectral-residual +│ 0.0% +│ 0.0% +│ \S+ +│ nothing", said)
    assert main(["score", "set", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["agreement"]
    (pair,) = figures["pairs"]
    assert figures["detectors"] == describe_detectors(ShardSet.open(photos / "set"))
    assert all(row["seconds"] > 0 and row["trained_on"] == "nothing" for row in figures["detectors"].values())
    boxes = read_boxes(ShardSet.open(photos / "set")).boxes
    expected = np.mean(iou(boxes["spectral-residual"], boxes["vsf"]))
    assert pair == {"detectors": ["spectral-residual", "vsf"], "mean_iou": pytest.approx(expected)}


def test_report_without_truth_speaks_of_none(photos: Path, tmp_path: Path):
    page = write_report(photos / "set", tmp_path / "report.html").read_text()
    body = page.split("<script>")[0].split("<h2>Settings")[0]
    assert not re.search("truth|IoU with|data-box='truth'", body)
    assert "Agreement of the detectors" in body
    assert "where detectors disagree most (6)" in body
    assert all(f"<figcaption title='IMG_{i}.png (64 x 48, train)'><span>IMG_{i}.png" in body for i in range(6))


def test_rebox_suggests_a_command_that_shows_both_sets(photos: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert main(["rebox", "set", "--tau", "1.6", "--out", "small", "--jobs", "1"]) == 0
    assert "Compare them: fgdata show set small\n" in capsys.readouterr().out
    assert main(["show", "set", "small", "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    names = ["set-spectral-residual", "set-vsf", "small-spectral-residual", "small-vsf"]
    assert re.findall("data-box='([^']*)'", page) == names
    assert "<title>set and small" in page
    assert "max-excess, tau of each detector, on a 64 x 64 grid (set) and max-excess, tau 1.6, on a 64" in page
    assert len(re.findall("<td>[0-9.,]+ ms</td><td>nothing</td>", page)) == 4
    settings = [page.partition(f"<h2>Settings of {name}</h2>")[2].partition("</table>")[0] for name in ("set", "small")]
    assert ["1.6" in text for text in settings] == [False, True]
    times = re.findall(r"<h2>Build time by stage of (\w+)</h2>", page)
    assert times == ["set", "small"]
    assert all(f"<b>6</b><span>train images of {name}</span>" in page for name in ("set", "small"))
    assert main(["list", "--folder", "."]) == 0
    listed = capsys.readouterr().out
    assert "(max-excess, tau of each detector)" in " ".join(listed.split())
    assert "(max-excess, tau 1.6)" in listed


def test_a_page_about_two_sets_with_truth_scores_the_boxes_of_both(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    birds = read("drawn", classes=2, images_per_class=3, size=96, seed=7)
    build(birds, Path("set"), saliency=("vsf", "gt"), keep_maps=True)
    assert main(["rebox", "set", "--objective", "max-mean", "--out", "other", "--jobs", "1"]) == 0
    assert "Compare them: fgdata show set other\n" in capsys.readouterr().out
    page = write_report(Path("set"), Path("both.html"), other=Path("other")).read_text()
    table = page.split("Boxes against the ground truth")[1].split("</table>")[0]
    rows = [re.sub("<[^>]*>", " ", row).split() for row in table.split("<tr>")[2:]]
    for row, folder in zip(rows, ("set", "other")):
        figures = score(Path(folder))["detectors"]["vsf"]
        assert row[:2] == [f"{folder}-vsf", f"{figures['mean_iou']:.3f}"]
        assert row[-1] == "nothing"
    assert [row[0] for row in rows[2:]] == ["whole", "centred"]
    assert main(["show", "other", "set", "--out", "c.html"]) == 0


def test_sets_are_joined_by_id(photos: Path, tmp_path: Path):
    one = ShardSet.open(photos / "set")
    boxes = read_boxes(one)
    some = [i for i, name in enumerate(boxes.id) if name not in ("IMG_0.png", "IMG_3.png")]
    order = some[::-1]
    part = Scored(
        boxes.split[order],
        boxes.number[order],
        [boxes.id[i] for i in order],
        boxes.label[order],
        [boxes.truth[i] for i in order],
        {name: rows[order] for name, rows in boxes.boxes.items()},
        {name: [kinds[i] for i in order] for name, kinds in boxes.fallback.items()},
        {name: values[order] for name, values in boxes.iou.items()},
    )
    both = join(one, boxes, one, part)
    assert sorted(both.id) == ["IMG_1.png", "IMG_2.png", "IMG_4.png", "IMG_5.png"]
    np.testing.assert_array_equal(both.boxes["set-1-vsf"], both.boxes["set-2-vsf"])
    with pytest.raises(InputError, match="no image in common"):
        join(one, boxes, one, Scored(part.split, part.number, ["x"] * 4, *[getattr(part, f) for f in FIELDS]))


FIELDS = ("label", "truth", "boxes", "fallback", "iou")


def test_adding_gt_to_a_set_without_truth_says_so(photos: Path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert main(["add", "set", "--saliency", "gt", "--out", "other"]) == 2
    assert "set has no ground-truth boxes: its dataset, flat, has none" in capsys.readouterr().err
    assert not Path("other").exists()


def test_the_report_shows_the_settings_that_changed_pixels(tmp_path: Path):
    birds = read("drawn", classes=2, images_per_class=3, size=96, seed=7)
    build(birds, tmp_path / "set", saliency=("vsf",), max_side=64, quality=81, chroma="444", shard_samples=5)
    text = re.sub(r"<[^>]*>", " ", write_report(tmp_path / "set", tmp_path / "a.html").read_text())
    assert "6 of 6 (--max-side 64, --quality 81, --chroma 444)" in text
    table = dict(re.findall(r"<tr><th>([a-z_.]+)</th><td>([^<]*)</td></tr>", (tmp_path / "a.html").read_text()))
    manifest = ShardSet.open(tmp_path / "set").manifest
    expected = {f"images.{key}": value for key, value in manifest["images"].items()}
    expected |= {f"objective.{key}": value for key, value in manifest["objective"].items()}
    expected |= {f"dataset.{key}": value for key, value in manifest["dataset"]["settings"].items()}
    expected["shard_samples"] = 5
    assert {key: json.loads(html.unescape(value)) for key, value in table.items()} == expected
    assert expected["images.chroma"] == "444"
    build(birds, tmp_path / "plain", saliency=("vsf",))
    page = write_report(tmp_path / "plain", tmp_path / "b.html").read_text()
    assert "--chroma" not in page, "no image was re-encoded"
