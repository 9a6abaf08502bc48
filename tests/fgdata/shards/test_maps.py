"""maps.h5: each map is read by itself, and nothing in the file can make the reader use much memory or time."""

import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from fgdata.errors import InputError
from fgdata.shards import maps

fcntl = pytest.importorskip("fcntl", reason="this system has no locks of this kind")
SIDE = maps.SIDE


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Five maps: of noise, which deflate cannot shrink, even, of one step, and two slopes."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    slope = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // 64
    cells = (
        noise,
        np.zeros_like(noise),
        (slope > 99) * np.uint8(255),
        slope.astype(np.uint8),
        slope.T.astype(np.uint8),
    )
    shrunk = [(one, np.array([number, number + 1], np.float32)) for number, one in enumerate(cells)]
    path = tmp_path / "maps.h5"
    path.write_bytes(maps.pack([*range(5)], {"rbd": shrunk}))
    return path


def test_a_map_is_what_hdf5_reads(stored: Path):
    file = maps.MapFile(stored)
    with h5py.File(stored, locking=False) as oracle:
        for row in (4, 0, 3, 1, 2):
            cells = np.asarray(oracle["maps/rbd"])[row]
            np.testing.assert_array_equal(file.read("rbd", row), row + 1 / 255 * cells.astype(np.float64))


def test_picked_and_merged_maps_are_the_same(stored: Path, tmp_path: Path):
    maps.pick(stored, ["rbd"], [3, 0], tmp_path / "picked")
    maps.merge({"rbd": [tmp_path / "picked", stored]}, tmp_path / "merged")
    before, after = maps.MapFile(stored), maps.MapFile(tmp_path / "merged")
    for row, old in enumerate((3, 0, *range(5))):
        np.testing.assert_array_equal(after.read("rbd", row), before.read("rbd", old))


class OnlyDirect:
    """A dataset, and its id, that can do nothing but read one chunk: no walk over the others."""

    def __init__(self, maps: h5py.Dataset):
        self.id, self._maps, self.rows = self, maps, []

    def read_direct_chunk(self, place, **how):
        self.rows.append(place[0])
        return self._maps.id.read_direct_chunk(place, **how)


def test_a_read_touches_no_other_map(stored: Path):
    file = maps.MapFile(stored)
    expected = file.read("rbd", 4)
    dataset, ranges = file._datasets["rbd"]
    only = OnlyDirect(dataset)
    file._datasets["rbd"] = only, ranges  # type: ignore[assignment]
    np.testing.assert_array_equal(file.read("rbd", 4), expected)
    assert only.rows == [4]


SPOILT = {
    "too large": b"x" * 40_000,
    "expands to 10 MB": zlib.compress(bytes(10_000_000)),
    "too short": zlib.compress(bytes(100)),
    "cut": zlib.compress(bytes(SIDE * SIDE))[:-3],
    "of another sum": zlib.compress(bytes(SIDE * SIDE))[:-1] + b"x",
    "not deflate": b"not deflate",
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_map_is_refused_in_words(stored: Path, tmp_path: Path, what: str):
    with h5py.File(stored, "r+") as file:
        file["maps/rbd"].id.write_direct_chunk((2, 0, 0), SPOILT[what])
    opened = maps.MapFile(stored)
    with pytest.raises(InputError, match=r"maps.h5 has no map 2 by rbd \(.*--keep-maps"):
        opened.read("rbd", 2)
    opened.read("rbd", 3)
    if what == "too large":  # the others are copied as they are
        for copies in (
            lambda: maps.pick(stored, ["rbd"], [0, 2], tmp_path / "new"),
            lambda: maps.merge({"rbd": [stored]}, tmp_path / "new"),
        ):
            with pytest.raises(InputError, match="maps.h5 is damaged"):
                copies()
            assert not (tmp_path / "new").exists()


def test_an_unfiltered_map_of_another_size_is_refused(stored: Path):
    with h5py.File(stored, "r+") as file:
        file["maps/rbd"].id.write_direct_chunk((2, 0, 0), b"x" * 100, filter_mask=1)
    with pytest.raises(InputError, match="has no map 2 by rbd"):
        maps.MapFile(stored).read("rbd", 2)


@pytest.mark.parametrize("filters", [{}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True}])
def test_other_filters_than_deflate_are_refused(stored: Path, filters: dict):
    with h5py.File(stored, "r+") as file:
        cells = np.asarray(file["maps/rbd"])
        del file["maps/rbd"]
        file.create_dataset("maps/rbd", data=cells, chunks=(1, SIDE, SIDE), **{"compression": "gzip", **filters})
        if not filters:
            del file["maps/rbd"]
            file.create_dataset("maps/rbd", data=cells, chunks=(1, SIDE, SIDE))
    with pytest.raises(InputError, match="maps/rbd is not a u1 array"):
        maps.MapFile(stored).read("rbd", 0)


def test_no_file_is_locked(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NFS without a lock server answers ENOLCK, which HDF5 takes for an error; here others hold all the locks."""
    with ExitStack() as stack:

        def hold(path: Path) -> None:
            file = stack.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX)

        @contextmanager
        def locked(path: Path, atomic=maps.atomic):
            with atomic(path) as part:
                part.touch()
                hold(part)
                yield part

        monkeypatch.setattr(maps, "atomic", locked)
        hold(stored)
        maps.pick(stored, ["rbd"], [1], tmp_path / "picked")
        maps.merge({"rbd": [stored]}, tmp_path / "merged")
        maps.MapFile(stored).read("rbd", 1)
