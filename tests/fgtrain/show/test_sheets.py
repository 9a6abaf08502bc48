"""Contact sheets: headings that fit, images chosen by id, formats; curves of several seeds."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.shards.reader import ShardSet, box, meta
from fgdata.shards.sample import Sample
from fgdata.views import ViewSpec, load
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import RunDir
from fgtrain.settings import methods
from fgtrain.settings.file import to_dict
from fgtrain.settings.methods import METHODS, MocoConfig
from fgtrain.settings.pictures import Gradcam, Views
from fgtrain.show import curves, gradcam, views
from fgtrain.show.layout import MARGIN, heading, layout, shortened, wrapped
from fgtrain.show.sheet import caption, choose, default_split, fitted, framed, pixels

LONG = "image and its maps-a-folder-with-a-very-long-name-of-a-detector box"


@pytest.mark.parametrize("size", [64, 96, 128, 224, 320])
@pytest.mark.parametrize("text", ["image", LONG, "x" * 200, "SaliencySwap: over another image's object"])
def test_a_heading_is_no_wider_than_its_columns(text: str, size: int):
    font, lines = heading(text, size)
    assert len(lines) <= 3
    assert all(ImageFont.load_default(font).getlength(line) <= size for line in lines)


def test_headings_end_above_the_images_and_leave_the_margin():
    cell = Image.new("RGB", (64, 64), (200, 0, 0))
    sheet = layout([[cell, cell]], ["a caption that takes several lines"], [(LONG, 1), ("x", 1)], 64)
    first = min(top for _, top, _ in sheet.images)
    assert all(text.y + text.size <= first for text in sheet.texts[:4])
    assert min(text.y for text in sheet.texts) >= MARGIN
    assert max(text.y + text.size for text in sheet.texts) <= sheet.height
    raster = np.asarray(sheet.raster())
    assert raster.shape == (sheet.height, sheet.width, 3)
    left, top, _ = sheet.images[1]
    assert raster[top + 5, left + 5].tolist() == [200, 0, 0]


def test_a_long_word_is_broken_at_its_joints():
    assert wrapped("Black_footed_Albatross 007.Long-tailed", 15, 100) == [
        "Black_footed_",
        "Albatross",
        "007.Long-",
        "tailed",
    ]


def test_text_is_wrapped_without_loss_and_shortened_in_the_middle():
    text = "one two-three four " + "y" * 50
    assert "".join(wrapped(text, 15, 80)).replace(" ", "") == text.replace(" ", "")
    assert shortened("short", 15, 200) == ["short"]
    short = shortened("a" * 100 + "b" * 100, 15, 60)
    assert len(short) == 3
    assert re.fullmatch(r"a+\.\.\.b+", "".join(short))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_sheet_is_written_in_each_format_with_the_same_bytes(suffix: str, tmp_path: Path):
    pytest.importorskip("matplotlib")
    cell = Image.new("RGB", (160, 160), (200, 0, 0))
    sheet = layout([[cell, cell]], ["a $caption$ & <tag>"], [("image", 1), ("BYOL", 1)], 160)
    for name in ("one", "two"):
        sheet.save(tmp_path / name, suffix)
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])
    if suffix == ".svg":
        assert ">BYOL</text>" in data.decode()
        assert all(text in data.decode() for text in ("$caption$", "&amp;", "&lt;tag&gt;"))


def test_a_picture_of_another_format_is_refused():
    with pytest.raises(InputError, match=r"--out is x.gif; allowed: a file whose name ends in .png, .pdf, .svg"):
        Gradcam((Path("run"),), out=Path("x.gif"))


def test_images_are_chosen_by_id_or_at_random(drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    reader = shards.split("test")
    infos = [meta(reader.read(i)) for i in range(len(reader))]
    wanted = [infos[5]["id"], infos[2]["file"]]
    assert choose(shards, "test", wanted, 2, 0).tolist() == [5, 2]
    assert choose(shards, "test", (), 3, 0).tolist() == sorted({*choose(shards, "test", (), 3, 0).tolist()})
    with pytest.raises(InputError, match="--ids: nothing is not an image of the test split.*Ids look like"):
        choose(shards, "test", ["nothing"], 1, 0)


@pytest.mark.parametrize("rows", [1, 3])
def test_views_of_chosen_images(rows: int, drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first column shows these images with their boxes, in the given order; one image alone has views too."""
    reader, sheets = ShardSet.open(drawn_set).split("test"), []
    monkeypatch.setattr(views, "layout", lambda *parts: sheets.append(parts) or layout(*parts))
    samples = [reader.read(number) for number in (7, 2, 11)[:rows]]
    ids = tuple(meta(sample)["id"] for sample in samples)
    views.draw_views(Views(shards=drawn_set, split="test", ids=ids, size=64, out=tmp_path / "views.png"))
    cells = sheets[0][0]
    assert [len(row) for row in cells] == [5] * rows
    for row, sample in zip(cells, samples):
        image = fitted(decode(sample["jpg"], ""), 64)
        x, y, w, h = box(sample, "spectral-residual") * (image.size * 2)
        np.testing.assert_array_equal(row[0], framed(image, (x, y, x + w, y + h), 1))
    with pytest.raises(InputError, match="--ids: nothing is not an image of the test split"):
        views.draw_views(Views(shards=drawn_set, split="test", ids=("nothing",)))


def test_a_run_with_another_crop_adds_its_own_views(drawn_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sheets, spec = [], ViewSpec(size=64, crop="contrastive", area=(0.2, 0.3))
    monkeypatch.setattr(views, "layout", lambda *parts: sheets.append(parts) or layout(*parts))
    with RunDir.claim(tmp_path / "run", MocoConfig(views=spec)) as run:
        run.start(MocoConfig(views=spec))
    flags = Views(run=tmp_path / "run", shards=drawn_set, size=64, rows=2, seed=3, out=tmp_path / "views.png")
    views.draw_views(flags)
    cells, _, heads, _ = sheets[0]
    assert [len(row) for row in cells] == [7, 7]
    assert heads[-1] == ("the run's views: contrastive", 2)
    with load(drawn_set, views=spec, batch_size=2, seed=3, detector="spectral-residual") as loader:
        expected = next(iter(loader))["views"]
    shown = np.asarray(cells[0][5]).astype(float)
    inside = (slice(8, -8), slice(8, -8))  # the outline of the box may differ
    assert shown.shape == pixels(expected[0, 0].numpy(), spec).shape
    assert np.mean(np.abs(shown - pixels(expected[0, 0].numpy(), spec))[inside] < 2) > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_has_a_sheet_of_views(method: str, drawn_set: Path, tmp_path: Path):
    """Also with settings by view, and with more or fewer views than the sheet."""
    config = METHODS[method]()
    each = {name: (0.5,) * config.view_count for name in ("blur", "solarize", "strength")}
    config = replace(config, views=replace(config.views, area=((0.2, 1.0),) * config.view_count, **each))
    with RunDir.claim(tmp_path / "run", config) as run:
        run.start(config)
    out = tmp_path / "views.png"
    views.draw_views(Views(run=tmp_path / "run", shards=drawn_set, size=32, rows=2, out=out))
    assert out.is_file()


@pytest.mark.parametrize(("splits", "given", "expected"), [
    ({"train": 4, "test": 2}, None, "test"), ({"train": 4}, None, "train"), ({"train": 4, "test": 0}, None, "train"),
    ({"train": 4, "test": 2}, "train", "train"),
])  # fmt: skip
def test_the_default_split_has_images(splits: dict, given: str | None, expected: str):
    shards: Any = SimpleNamespace(splits=splits)
    assert default_split(shards, given) == expected


def test_an_empty_map_says_so_and_is_not_blue():
    grey = np.full((60, 60, 3), 128, np.uint8)
    empty = np.asarray(gradcam.overlaid(grey, np.zeros((4, 4)))).astype(int)
    assert np.ptp(empty, -1).max() < 12  # no colour map; the ink itself is a little blue
    assert empty.min() < 128 < empty.max()  # the note is dark on a pale image
    colours = [np.asarray(gradcam.overlaid(grey, np.eye(4), name)) for name in gradcam.COLOURS]
    assert len({picture.tobytes() for picture in colours}) == len(gradcam.COLOURS) == 5


def write_metrics(folder: Path, name: str, seed: int, losses: list[float], kind: type = methods.ByolConfig) -> Path:
    path = folder / name
    path.mkdir()
    write_json(path / "config.json", to_dict(kind(seed=seed)))
    lines = (f'{{"step": {i}, "epoch": {i / 2}, "loss": {loss}}}\n' for i, loss in enumerate(losses, 1))
    (path / "metrics.jsonl").write_text("".join(lines))
    return path


def test_runs_that_differ_in_the_seed_are_one_line_in_a_band(tmp_path: Path):
    runs = [
        write_metrics(tmp_path, "a", 0, [4.0, 2.0, 1.0]),
        write_metrics(tmp_path, "b", 1, [6.0, 3.0]),
        write_metrics(tmp_path, "c", 0, [5.0, 5.0], methods.MocoConfig),
    ]
    groups = curves.grouped(runs, ())
    assert groups == {"byol": runs[:2], "moco": runs[2:]}
    assert list(curves.grouped(runs[1:], ())) == ["b", "c"]  # one run each: their folders
    assert list(curves.grouped(runs, ("BYOL", "MoCo"))) == ["BYOL", "MoCo"]
    with pytest.raises(InputError, match="--labels is given 1 different names; allowed: one for each of 2.*byol; moco"):
        curves.grouped(runs, ("BYOL",))
    mean, band = curves.average([curves.curves(path) for path in runs[:2]])["loss"]
    assert mean == ([0.5, 1.0], [5.0, 2.5])  # the epochs that both have
    assert band == ([0.5, 1.0], [4.0, 2.0], [6.0, 3.0])
    assert curves.average([curves.curves(runs[2])])["loss"][1] is None


def test_a_set_of_one_class_has_file_names_as_captions():
    sample = Sample({"cls": b"0"})
    sample.info = {"file": "summer/IMG_1.jpg", "id": "7"}
    for classes, expected in ((("unlabelled",), "IMG_1.jpg"), (("001.Blue_jay", "b"), "Blue jay"), ((), "7")):
        shards: Any = SimpleNamespace(classes=classes)
        assert caption(shards, sample) == expected
