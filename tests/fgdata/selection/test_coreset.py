"""`fgdata coreset` with an encoder that is written here: the samples of the new set, its manifest, and bad input."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from shard_files import files

from fgdata import cli, selection
from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.selection.coreset import coreset
from fgdata.selection.simcore import choose, find_centres, similarities, unit
from fgdata.shards.check import check
from fgdata.shards.manifest import RowsDigest, dump, signed
from fgdata.shards.maps import MapFile
from fgdata.shards.reader import ShardSet, meta


class Thumbnail:
    """The image in 4 x 4 pixels."""

    SETTINGS = {"version": 1}  # noqa: RUF012

    def embed(self, shards: ShardSet, split: str) -> Iterator[np.ndarray]:
        reader = shards.split(split)
        for start in range(0, len(reader), 10):
            numbers = range(start, min(start + 10, len(reader)))
            rgb = [cv2.imdecode(np.frombuffer(reader.read(i)["jpg"], np.uint8), 1) for i in numbers]
            yield np.stack([cv2.resize(x, (4, 4)).reshape(-1) for x in rgb]).astype(np.float32)  # pyright: ignore


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pool of 24 train and 12 test images with maps, and a target of 8 train images."""
    root = tmp_path_factory.mktemp("sets")
    pool = read("drawn", classes=3, images_per_class=12, size=64, seed=1)
    build(pool, root / "pool", saliency=("spectral-residual", "gt"), shard_samples=5, keep_maps=True)
    build(read("drawn", classes=2, images_per_class=6, size=64), root / "target", saliency=("gt",))
    return root / "pool", root / "target"


def run(sets: tuple[Path, Path], out: Path, budget: float = 7, **more):
    return coreset(ShardSet.open(sets[0]), ShardSet.open(sets[1]), Thumbnail(), budget, out, **more)


def test_the_new_set_holds_the_chosen_samples_as_they_are(sets: tuple[Path, Path], tmp_path: Path):
    done = run(sets, tmp_path / "new", centres=3)
    pool, target, new = (ShardSet.open(path) for path in (*sets, tmp_path / "new"))
    x, u = (np.concatenate(list(Thumbnail().embed(s, "train"))) for s in (target, pool))
    numbers, rounds = choose(similarities([u], find_centres(unit(x), 3), 24), 7)
    assert new.splits == {"train": 7}
    assert [shard["samples"] for shard in new.manifest["splits"]["train"]["shards"]] == [5, 2]
    for row, number in enumerate(numbers.tolist()):
        old, copy = pool.split("train").read(number), new.split("train").read(row)
        assert dict(old) == dict(copy)  # image, class, boxes, and the json with its checksum
        assert pool.split("train").key(number) == new.split("train").key(row)
    assert check(tmp_path / "new")[1] == []
    how = done.manifest["dataset"]["settings"]["coreset"]
    assert (how["encoder"], how["budget"], how["centres"]) == (Thumbnail.SETTINGS, 7, 3)
    assert how["similarity"] == [round(rounds[0], 4), round(rounds[-1], 4)]
    assert how["pool"] == {"dataset": "drawn", "digest": pool.manifest["digest"], "split": "train", "samples": 24}
    assert how["target"]["digest"] == target.manifest["digest"]
    assert new.manifest["dataset"]["records_sha256"] != pool.manifest["dataset"]["records_sha256"]
    maps = [MapFile(path / "maps.h5") for path in (sets[0], tmp_path / "new")]
    for row, number in enumerate(numbers.tolist()):
        one, two = (m.read("spectral-residual", i) for m, i in zip(maps, (number, row)))
        np.testing.assert_array_equal(one, two)
    for each in maps:
        each.close()


def test_two_runs_give_the_same_bytes_and_leave_the_pool_alone(sets: tuple[Path, Path], tmp_path: Path):
    before = files(sets[0])
    for name in ("a", "b"):
        run(sets, tmp_path / name, 0.25)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(sets[0]) == before
    assert not (tmp_path / ".new").exists()


def test_the_split_test_can_be_chosen_from(sets: tuple[Path, Path], tmp_path: Path):
    run(sets, tmp_path / "new", 12, split="test")
    pool, new = ShardSet.open(sets[0]), ShardSet.open(tmp_path / "new")
    for row in range(12):  # all of them: the rows of maps.h5 are those after the train split
        assert meta(new.split("test").read(row)) == meta(pool.split("test").read(row))
    maps = [MapFile(path / "maps.h5") for path in (sets[0], tmp_path / "new")]
    np.testing.assert_array_equal(maps[0].read("spectral-residual", 24 + 3), maps[1].read("spectral-residual", 3))
    assert check(tmp_path / "new")[1] == []


def test_a_pool_of_an_older_format_and_without_ground_truth(sets: tuple[Path, Path], tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(sets[0], old)
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["format_version"] = "1.0"
    del manifest["maps"], manifest["shard_samples"], manifest["dataset"]["records_sha256"]
    (old / "maps.h5").unlink()
    (old / "manifest.json").write_bytes(dump(signed(manifest)))
    done = run((old, sets[1]), tmp_path / "new")
    assert done.manifest["format_version"] == "1.3"
    assert check(tmp_path / "new")[1] == []


@pytest.mark.parametrize(
    ("budget", "more", "text"),
    [
        (25, {}, "--budget is 25; allowed: 1 to 24"),
        (0, {}, "--budget is 0;"),
        (2.5, {}, "--budget is 2.5;"),
        (0.01, {}, "a share of them from 0.0417 to below 1"),
        (float("nan"), {}, "--budget is nan;"),
        (5, {"split": "dev"}, "no images in the split dev; it has train (24), test (12)"),
        (5, {"centres": 0}, "--centres is 0;"),
        (5, {"stop": 1.5}, "--stop is 1.5;"),
        (5, {"seed": -1}, "--seed is -1;"),
    ],
)
def test_bad_values_are_one_line(sets: tuple[Path, Path], tmp_path: Path, budget: float, more: dict, text: str):
    with pytest.raises(InputError, match=re.escape(text)) as fault:
        run(sets, tmp_path / "new", budget, **more)
    assert "\n" not in str(fault.value)
    assert list(tmp_path.iterdir()) == []


def test_sets_and_folders_that_cannot_be_used(sets: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(InputError, match="the same images as the target"):
        run((sets[0], sets[0]), tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(InputError, match="is not an empty folder"):
        run(sets, tmp_path / "full")
    empty = tmp_path / "empty"
    empty.mkdir()
    manifest = json.loads((sets[1] / "manifest.json").read_text())
    manifest["splits"] = {"train": {"samples": 0, "shards": []}}
    (empty / "manifest.json").write_bytes(dump(signed(manifest)))
    with pytest.raises(InputError, match=f"The pool {empty} has no images in the split train; it has no images"):
        run((empty, sets[0]), tmp_path / "new")


def test_features_that_are_not_finite_leave_nothing(sets: tuple[Path, Path], tmp_path: Path):
    class Diverged(Thumbnail):
        def embed(self, shards: ShardSet, split: str) -> Iterator[np.ndarray]:
            yield np.full((shards.splits[split], 3), np.nan, np.float32)

    with pytest.raises(InputError, match="are not finite"):
        coreset(ShardSet.open(sets[0]), ShardSet.open(sets[1]), Diverged(), 3, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_command_opens_an_encoder_by_its_family(sets: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import sys\nfrom fgdata.selection import EncoderRow\n"
        "ENCODERS = {'small:SIDE': EncoderRow('mine', 'thumbnails')}\n"
        "def encoder(argument):\n    assert argument == '4'\n    return sys.modules['__coreset__'].Thumbnail()\n"
    )
    monkeypatch.setattr(selection, "ENCODERS", dict(selection.ENCODERS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = ModuleType("__coreset__")
    module.Thumbnail = Thumbnail  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "__coreset__", module)
    monkeypatch.setattr("fgdata.plugins._modules", {})
    monkeypatch.setattr("fgdata.plugins._providers", {})
    monkeypatch.setenv("FGDATA_PLUGINS", "")
    words = ["coreset", *map(str, sets), "--budget", "6", "--out", str(tmp_path / "new"), "--encoder"]
    assert cli.main([*words, "small:4", "--plugin", str(tmp_path / "mine.py")]) == 0
    assert "6 of 24 images" in capsys.readouterr().out
    assert ShardSet.open(tmp_path / "new").splits == {"train": 6}
    assert cli.main([*words, "other:4"]) == 2
    assert "--encoder is 'other:4'; allowed:" in capsys.readouterr().err
    sys.modules.pop("mine", None)


def test_a_choice_that_does_not_fit_into_memory_is_refused_before_the_work(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fgdata.selection.coreset.free_memory", lambda: 4 * 5 * (24 + 7) - 1)
    monkeypatch.setattr(Thumbnail, "embed", None)
    text = r"--centres 5 with 24 images of the pool and 8 of the target needs .* GB of memory, and 0.0 GB are free"
    with pytest.raises(InputError, match=text):
        run(sets, tmp_path / "new", centres=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [[], [1], [3, 1, 2]])
def test_the_digest_of_rows_is_that_of_their_list(sizes: list[int]):
    rows = [[f"ü{i}", i, [0.1 * i, None]] for i in range(sum(sizes))]
    digest, left = RowsDigest(), iter(rows)
    for size in sizes:
        digest.add([next(left) for _ in range(size)])
    assert digest.hexdigest() == hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
