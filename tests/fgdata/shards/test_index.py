"""Indexes as arrays: what they say of a sample is what its line says, and no index is read after a set was opened."""

import pickle
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgdata.shards.index import Indexes, _Table, as_table
from fgdata.shards.reader import ShardSet, read_all
from fgdata.shards.sample import parse_index_line
from fgdata.stores.store import Folder
from fgdata.views import ViewSpec, load

LINES = (
    "jpg 512 700 0007.jpg cls 2048 1 0007.cls rbd.npy 3072 144 0007.rbd.npy json 4096 300 0007.json",
    "jpg 5120 1024 0003.jpg cls 6656 2 0003.cls rbd.npy 7680 144 0003.rbd.npy json 8704 512 0003.json",
)
"""Offsets by hand: data is padded to 512 bytes, and a header of 512 precedes the next."""
TAR_BYTES = 9216


def indexed(lines: tuple[str, ...]) -> Indexes:
    content = "".join(f"{line}\n" for line in (f"v1.2 {len(lines)}", *lines))
    indexes = Indexes(Path("set"))
    indexes.add({"name": "train-000000", "samples": len(lines), "bytes": TAR_BYTES}, content.encode())
    return indexes


def answer(function: Callable, *arguments: Any) -> Any:
    """What a call returns, or the text of its ValueError."""
    try:
        return function(*arguments)
    except ValueError as fault:
        return str(fault)


def test_an_array_says_what_the_lines_say():
    indexes = indexed(LINES)
    table = indexes._shards["train-000000"]
    assert isinstance(table, _Table)
    np.testing.assert_array_equal(table.rows, [[7, 512, 700, 1, 144, 300], [3, 5120, 1024, 2, 144, 512]])
    assert table.rows.dtype == np.int64
    for number, line in enumerate(LINES):
        assert indexes.find("train-000000", number) == parse_index_line(line, TAR_BYTES)
        assert list(indexes.find("train-000000", number)[1]) == ["jpg", "cls", "rbd.npy", "json"]


def test_every_index_of_a_set_is_an_array_that_says_what_its_lines_say(drawn_set: Path):
    shards = ShardSet.open(drawn_set)
    for entry in (entry for split in shards.manifest["splits"].values() for entry in split["shards"]):
        assert shards._indexes is not None
        assert isinstance(shards._indexes._shards[entry["name"]], _Table)
        for number, line in enumerate((drawn_set / f"{entry['name']}.idx").read_text().splitlines()[1:]):
            assert shards._indexes.find(entry["name"], number) == parse_index_line(line, entry["bytes"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("json 8704 512 0003.json", "json 8704 512 0003.json gt.npy 9728 144 0003.gt.npy"),
        (" 0003.cls", " 0004.cls"),
        ("0003", "00003"),
        ("0003", "1" * 19),
        ("cls 6656", "cls 7168"),
        ("json 8704 512", "json 8704 513"),
        ("cls 6656 2", "cls 6656 x"),
        ("cls 6656 2", "cls 6656  2"),
        ("json 8704 512 0003.json", "json 8704 512 0003.json "),
        ("rbd.npy 7680", "rbdxnpy 7680"),
        ("jpg 5120", "jpg " + "5" * 16),
    ],
)
def test_an_unusual_index_stays_text_and_gives_the_same_answers_and_faults(old: str, new: str):
    lines = LINES[0], LINES[1].replace(old, new)
    assert lines[1] != LINES[1]
    indexes = indexed(lines)
    assert not isinstance(indexes._shards["train-000000"], _Table)
    for number, line in enumerate(lines):
        assert answer(indexes.find, "train-000000", number) == answer(parse_index_line, line, TAR_BYTES)


def test_text_gives_the_same_samples(drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    reader = ShardSet.open(drawn_set).split("train")
    arrays, keys = list(read_all(reader)), [reader.key(i) for i in range(len(reader))]
    monkeypatch.setattr("fgdata.shards.index.as_table", lambda text: as_table(text) and None)
    reader = ShardSet.open(drawn_set).split("train")
    assert list(read_all(reader)) == arrays
    assert [reader.key(i) for i in range(len(reader))] == keys
    assert list(read_all(pickle.loads(pickle.dumps(reader)))) == arrays


@pytest.mark.parametrize("backend", ["threads", "dali"])
def test_a_loader_reads_each_sample_once_and_in_its_readers(drawn_set: Path, backend, monkeypatch: pytest.MonkeyPatch):
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    reads, read, opened = Counter(), Folder.read, []

    def count(folder: Folder, name: str, size: int, offset: int) -> bytes:
        reads[threading.current_thread().name.rpartition("-")[0], name.rpartition(".")[2]] += 1
        return read(folder, name, size, offset)

    shards = ShardSet.open(drawn_set)
    monkeypatch.setattr(Folder, "read", count)
    monkeypatch.setattr(Folder, "open", lambda folder, name: opened.append(name))
    with load(shards, views=ViewSpec(size=16), batch_size=8, backend=backend, shuffle=False) as loader:
        assert len(list(loader)) == 4
    assert reads == {("fgdata-reads", "tar"): 32}
    assert opened == []
