"""Near-duplicates: copies are found, other images are not, and every pair is the one that loops find."""

import csv
import io
import json
from functools import partial

import cv2
import numpy as np
import pytest
from shard_files import from_folder, jpeg

from fgdata import progress
from fgdata.building.build import build
from fgdata.cli import main
from fgdata.datasets import Dataset, Record
from fgdata.report import duplicates
from fgdata.report.duplicates import LEAST_CORRELATION, MOST_BITS, SIDE, compare

COPIES = {"bird.jpg": False, "small.jpg": False, "coarse.jpg": False, "mirrored.jpg": True}


def scene(seed: int) -> np.ndarray:
    """(96, 128, 3) uint8: smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def copied_set(tmp_path_factory):
    """Train: 20 scenes, the first as COPIES in test, beside 9 others. [bold] is markup, and not to be taken as such."""
    root = tmp_path_factory.mktemp("copies")
    first = scene(0)
    test = [first, cv2.resize(first, (64, 48)), cv2.imdecode(np.frombuffer(jpeg(first), np.uint8), 1)[..., ::-1]]
    test.append(np.ascontiguousarray(cv2.resize(first, (100, 75))[:, ::-1]))
    images = {f"[bold]{i}.jpg": scene(i) for i in range(20)}
    images |= {"a.jpg": scene(50), "b.jpg": scene(50)}
    test_images = dict(zip(COPIES, test)) | {f"other{i}.jpg": scene(100 + i) for i in range(9)}
    records = []
    for split, files in (("train", images), ("test", test_images)):
        for name, rgb in files.items():
            (root / name).write_bytes(jpeg(rgb))
            records.append(Record(name, name, 0, "bird", split))
    data = Dataset("copies", ("bird",), tuple(records), partial(from_folder, root))
    build(data, root / "set", saliency=("spectral-residual",), workers=1)
    return root / "set"


def test_every_copy_in_test_is_named_and_nothing_else(copied_set, capsys):
    assert main(["check", str(copied_set), "--duplicates", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {pair["first"]["file"] for pair in found["across"]} == {"[bold]0.jpg"}
    assert {pair["second"]["file"]: pair["mirrored"] for pair in found["across"]} == COPIES
    assert (found["images"], found["repeated"]) == ({"train": 22, "test": 13}, {"train": 1, "test": 4})
    assert found["within"] == {"train": 1, "test": 6}, "a and b; all pairs of the four copies"

    assert main(["check", str(copied_set), "--duplicates", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["split_1"], row["file_1"], row["class_name_1"]) for row in rows} == {("train", "[bold]0.jpg", "bird")}
    assert {row["file_2"]: bool(int(row["mirrored"])) for row in rows} == COPIES

    assert main(["check", str(copied_set), "--duplicates"]) == 0
    text = capsys.readouterr().out
    near = "test: 4 of 13 images with a near-duplicate in train"
    for part in (
        "is intact",
        "train, bird, [bold]0.jpg",
        "--duplicates --format csv",
        near,
        "Pairs within a split: 1 in train, 6 in test",
    ):
        assert part in text


def test_both_steps_show_progress(copied_set, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    assert main(["check", str(copied_set), "--duplicates", "--format", "json"]) == 0
    lines = capsys.readouterr().err
    assert "Decoding: 35 of 35 images" in lines
    assert "Comparing: 35 of 35 images" in lines


def test_format_needs_duplicates(copied_set, capsys):
    assert main(["check", str(copied_set), "--format", "csv"]) == 2
    assert "--format csv has no effect without --duplicates" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_pairs_are_those_of_a_loop_over_all_pairs(monkeypatch, rows):
    monkeypatch.setattr(duplicates, "_ROWS", rows)
    rng = np.random.default_rng(1)
    images = [cv2.resize(scene(i), (SIDE, SIDE))[..., 0] for i in range(8)]
    images += [image[:, ::-1] for image in images[:3]] + [np.full((SIDE, SIDE), 7, np.uint8)] * 2
    images += [np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8) for image in images[:5]]
    pixels = np.stack(images)

    def bits(image):
        return np.unpackbits(cv2.img_hash.pHash(np.ascontiguousarray(image))[0]).astype(int)

    expected = {}
    for i in range(len(pixels)):
        for j in range(i + 1, len(pixels)):
            for mirrored in (False, True):
                other = pixels[j][:, ::-1] if mirrored else pixels[j]
                distance = int(abs(bits(pixels[i]) - bits(other)).sum())
                if min(np.ptp(pixels[i]), np.ptp(other)) == 0 or distance > MOST_BITS:
                    continue
                r = np.corrcoef(pixels[i].ravel().astype(float), other.ravel().astype(float))[0, 1]
                if r >= LEAST_CORRELATION and r > expected.get((i, j), (0, -1.0))[1]:
                    expected[i, j] = distance, r, mirrored
    found = {(i, j): (distance, pytest.approx(r), mirrored) for i, j, distance, r, mirrored in compare(pixels)}
    assert found == expected
    assert len(expected) >= 8
