"""Shard sets: manifest.json, tars, indexes, the components of a sample, maps.h5."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from . import corrupt
from .commands import fgdata, fgtrain, preload

PRELOAD = ("fgdata.building.build", "fgdata.building.rewrite", "fgdata.report.page", "fgtrain.show.views", "cv2")
SET, WHOLE = Path("set"), Path("whole")
CRC = b', "crc32": "%08x"}'


def prepare(folder: Path) -> None:
    preload(*PRELOAD)
    birds = "--dataset drawn --classes 2 --images-per-class 6 --size 48 --shard-samples 4 --keep-maps".split()
    assert fgdata("build-shards", *birds, "--saliency", "spectral-residual", "gt", "--out", folder / SET) == 0
    shutil.copytree(folder / SET, folder / WHOLE)


COMMANDS = {
    "check": lambda: check(),
    "score": lambda: fgdata("score", SET),
    "score-json": lambda: fgdata("score", SET, "--json"),
    "show": lambda: show(),
    "list": lambda: fgdata("list", "--folder", "."),
    "add": lambda: fgdata("add", SET, "--saliency", "vsf"),
    "add-out": lambda: fgdata("add", SET, "--saliency", "vsf", "--out", "new"),
    "rebox": lambda: fgdata("rebox", SET, "--tau", "0.5"),
    "rebox-out": lambda: fgdata("rebox", SET, "--tau", "0.5", "--out", "new"),
    "build": lambda: fgdata("build-shards", *"--dataset drawn --classes 2 --size 48 --out".split(), SET),
    "load": lambda: load(),
    "views": lambda: fgtrain("show", "views", "--shards", SET, "--rows", 2, "--size", 32, "--out", "views.png"),
}
FAILING = ("build",)
"""Commands that are refused for the valid files too: the set was built with other settings."""


def check() -> int:
    """`fgdata check` may pass a changed set only if its manifest was signed anew."""
    code = fgdata("check", SET)
    if code == 0 and (SET / "manifest.json").read_bytes() == (WHOLE / "manifest.json").read_bytes():
        for path in sorted(WHOLE.iterdir()):
            if path.name != "build.jsonl" and path.read_bytes() != (SET / path.name).read_bytes():
                raise AssertionError(f"whole, but {path.name} is not what was built")
    return code


def show() -> int:
    """`fgdata show`, whose page may hold no markup from the set."""
    code = fgdata("show", SET)
    if code == 0 and "<script>alert(1)" in (SET / "report.html").read_text("utf-8"):
        raise AssertionError("report.html has a script from the set")
    return code


def load() -> None:
    """Every batch of both splits, as a user's own loop reads them."""
    import fgdata as package

    views = package.ViewSpec(size=16, crop="saliency-swap", masks=True)
    for split in ("train", "test"):
        loader = package.load(SET, views=views, batch_size=2, split=split, backend="threads", threads=1)
        for _ in loader:
            pass


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    files = corrupt.regular_files(here / SET)
    kind = rng.choice(("file", "manifest", "sealed", "sealed", "sample", "sample", "maps", "index", "name"))
    manifest = here / SET / "manifest.json"
    if kind == "name":
        return corrupt.add_odd_name(rng, here / SET if rng.random() < 0.5 else here, b"{}")
    if kind == "maps" and corrupt.is_regular(here / SET / "maps.h5"):
        return corrupt_maps(rng, here / SET / "maps.h5", manifest)
    try:
        tree = read_manifest(manifest)
        shards = [shard for split in tree["splits"].values() for shard in split["shards"]]
        if kind == "sealed":
            tree, what = corrupt.corrupt_tree(rng, tree)
            write_manifest(manifest, tree)
            return f"sealed manifest.json: {what}"
        if kind in ("sample", "index"):
            shard = rng.choice(shards)
            stem = here / SET / shard["name"]
            what = repack(rng, stem) if kind == "sample" else corrupt.corrupt_file(rng, stem.with_suffix(".idx"))
            for suffix, prefix in ((".tar", ""), (".idx", "index_")):
                if not corrupt.is_regular(stem.with_suffix(suffix)):
                    continue
                content = stem.with_suffix(suffix).read_bytes()
                shard[f"{prefix}bytes"] = len(content)
                shard[f"{prefix}sha256"] = hashlib.sha256(content).hexdigest()
            write_manifest(manifest, tree)
            return f"sealed {what}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, tarfile.TarError):
        pass  # corrupted before
    return corrupt.corrupt_file(rng, manifest if kind == "manifest" else rng.choice(files)) if files else "nothing left"


def read_manifest(path: Path) -> Any:
    """Its content; ValueError when it is no longer a file."""
    if not corrupt.is_regular(path):
        raise ValueError(f"{path} is not a regular file")
    return json.loads(path.read_bytes())


def write_manifest(path: Path, tree: object) -> None:
    """With the digest that FORMAT.md asks for, where it can be computed."""
    if isinstance(tree, dict):
        said = {key: value for key, value in tree.items() if key != "digest"}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        tree["digest"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_bytes(corrupt.dump_json(tree))


def repack(rng: Random, stem: Path) -> str:
    """A tar with one component of one sample changed, its json sealed anew, and its index."""
    if not all(corrupt.is_regular(stem.with_suffix(suffix)) for suffix in (".tar", ".idx")):
        raise ValueError("the tar or its index is not a regular file")
    with tarfile.open(stem.with_suffix(".tar")) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # pyright: ignore
    at = rng.randrange(len(members))
    name, data = members[at]
    if name.endswith(".json"):
        tree = json.loads(data)
        tree.pop("crc32", None)
        tree, what = corrupt.corrupt_tree(rng, tree)
        data = corrupt.dump_json(tree)
    elif name.endswith(".cls"):
        data, what = corrupt_class(rng)
    elif name.endswith(".npy"):
        data, what = corrupt_array(rng, data)
    else:
        data, what = corrupt.corrupt_bytes(rng, data)
    members[at] = (name, data)
    if rng.random() < 0.1:
        other = rng.randrange(len(members))
        members[at], what = (str(rng.choice(corrupt.WORDS))[:90] or "x", members[other][1]), f"{what}, renamed"
    content, lines, sample, start = bytearray(), [], [], 0
    for name, data in members:
        if not sample:
            start = len(content) + 512
        if name.endswith(".json"):
            body = data[: data.rfind(b', "crc32"')] if b', "crc32"' in data else data[:-1]
            header = _header(name, len(body) + len(CRC % 0))
            offset = len(content) + 512
            data = body + CRC % zlib.crc32(content[start:] + header + body if content[start:] else body)
        else:
            header, offset = _header(name, len(data)), len(content) + 512
        content += header + data + bytes(-len(data) % 512)
        sample += [name.partition(".")[2] or "x", str(offset), str(len(data)), name]
        if name.endswith(".json"):
            lines.append(" ".join(sample))
            sample = []
    stem.with_suffix(".tar").write_bytes(content + bytes(1024 + -(len(content) + 1024) % 10240))
    text = f"v1.2 {len(lines)}\n" + "".join(line + "\n" for line in lines)
    stem.with_suffix(".idx").write_bytes(text.encode("utf-8", "backslashreplace"))
    return f"{stem.name}.tar, {name}: {what}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "backslashreplace")


def corrupt_class(rng: Random) -> tuple[bytes, str]:
    data = rng.choice((b"2147483648", b"-1", b"", b"one", b"1.5", b"\xff", b"9" * 4301, b"1\n", b"0x1", b"+1", b" 1"))
    return data, f"class {data[:20]!r}"


def corrupt_array(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A .npy of another type, shape or value, or with a header that lies."""
    arrays = (np.zeros(5), np.zeros((4, 4)), np.zeros(0), np.full(4, np.nan, "f4"), np.array(list("abcd")))
    arrays = (*arrays, np.full(4, 1e30, "f4"), np.array([0.5, 0.5, -1, 0], "f4"), np.zeros(4, "f8"), np.array(3.0))
    kind = rng.randrange(len(arrays) + 3)
    if kind < len(arrays):
        np.save(stream := io.BytesIO(), arrays[kind])
        return stream.getvalue(), f"array {kind}"
    if kind == len(arrays):
        np.save(stream := io.BytesIO(), np.array([{}], object), allow_pickle=True)
        return stream.getvalue(), "array of objects"
    if kind == len(arrays) + 1:
        return data.replace(b"(4,)", b"(99999999999,)", 1), "array with a huge shape"
    return corrupt.corrupt_bytes(rng, data)


def corrupt_maps(rng: Random, path: Path, manifest: Path) -> str:
    """maps.h5 with another tree inside, and the manifest's facts about it made to fit."""
    kinds = ("bytes", "shape", "type", "gone", "external link", "external storage", "huge", "soft link", "nan", "group")
    kind = rng.choice(kinds)
    if kind == "bytes" or not corrupt.is_regular(path):  # HDF5 would wait for the writer of a FIFO
        what = corrupt.corrupt_file(rng, path)
    else:
        what = f"maps.h5: {kind}"
        try:
            with h5py.File(path, "r+") as file:
                _corrupt_tree_of(rng, file, kind)
        except (OSError, KeyError, ValueError, RuntimeError):
            what = "maps.h5 is already corrupted"
    if corrupt.is_regular(path):
        content = path.read_bytes()
        try:
            tree = read_manifest(manifest)
            tree["maps"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            write_manifest(manifest, tree)
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            pass
    return what


def _corrupt_tree_of(rng: Random, file: h5py.File, kind: str) -> None:
    name = rng.choice(("key", "maps/spectral-residual", "range/spectral-residual"))
    old = file[name]
    if not isinstance(old, h5py.Dataset):
        raise ValueError(f"{name} is a group, since an earlier corruption")
    shape, dtype = old.shape, old.dtype
    del file[name]
    if kind == "shape":
        file.create_dataset(name, rng.choice(((0,), (1,), (12, 1, 1), (8, 2), ())), dtype)
    elif kind == "type":
        file.create_dataset(name, shape, rng.choice(("f8", "i2", "S5", h5py.string_dtype(), "c16")))
    elif kind == "external link":
        file[name] = h5py.ExternalLink("../outside/canary.txt", "/x")
    elif kind == "external storage":
        file.create_dataset(name, shape, dtype, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])
    elif kind == "huge":
        file.create_dataset(name, (12, 60_000, 60_000), "u1", chunks=(1, 1000, 1000), compression="gzip")
    elif kind == "soft link":
        file[name] = h5py.SoftLink(f"/{name}")
    elif kind == "nan":
        file.create_dataset(name, shape, dtype if dtype.kind != "f" else "f4", fillvalue=np.array(255, dtype))
    elif kind == "group":
        file.create_group(name)
