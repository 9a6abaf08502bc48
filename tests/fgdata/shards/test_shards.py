"""The shard format against the text of FORMAT.md, DALI's own indexer, and every kind of damage."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from paths import TINY

from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files.handles import HANDLES
from fgdata.shards.check import check
from fgdata.shards.manifest import digest, dump, signed
from fgdata.shards.reader import ShardSet, box, label, meta
from fgdata.shards.writer import ShardWriter, box_bytes


@pytest.fixture
def copy(drawn_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn_set, tmp_path / "copy"))


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def write(folder: Path, samples: int = 3) -> ShardWriter:
    with ShardWriter(folder, "train-000000") as writer:
        for i in range(samples):
            components = {"jpg": b"\xff\xd8" + bytes(i * 300), "cls": b"%d" % i, "rbd.npy": box_bytes(np.full(4, 0.25))}
            writer.add(f"{i:06d}", components, {"id": str(i), "note": "é"})
    return writer


def test_writer_gives_the_same_bytes_each_time_in_a_plain_tar(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first.entry == second.entry
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["000000.jpg", "000000.cls", "000000.rbd.npy", "000000.json"]
        assert len(names) == 12
        assert all((m.mtime, m.uid, m.gid, m.mode, m.uname) == (0, 0, 0, 0o644, "") for m in tar.getmembers())
        file = tar.extractfile("000002.rbd.npy")
        assert file is not None
        loaded = np.load(io.BytesIO(file.read()), allow_pickle=False)
        np.testing.assert_array_equal(loaded, np.full(4, 0.25, np.float32))
    assert (tmp_path / "a" / "train-000000.tar").stat().st_size % 10240 == 0


def test_index_equals_dalis_own(tmp_path):
    indexer = pytest.importorskip("wds2idx", reason="NVIDIA DALI's wds2idx is not installed")
    write(tmp_path, 5)
    creator = indexer.IndexCreator(str(tmp_path / "train-000000.tar"), str(tmp_path / "theirs.idx"))
    creator.create_index()
    creator.close()
    ours, theirs = ((tmp_path / name).read_text().split() for name in ("train-000000.idx", "theirs.idx"))
    assert ours == theirs


def test_checksum_follows_the_format_page(drawn_set):
    tar = tars(drawn_set)[0]
    data = tar.read_bytes()
    for line in tar.with_suffix(".idx").read_text().splitlines()[1:]:
        fields = line.split()
        first, last, size = int(fields[1]), int(fields[-3]), int(fields[-2])
        document = json.loads(data[last : last + size])
        assert list(document)[-1] == "crc32"
        assert int(document["crc32"], 16) == zlib.crc32(data[first : last + size - 22])


def test_box_is_the_last_sixteen_bytes():
    assert struct.unpack("<4f", box_bytes(np.array([0.5, 0.25, 0.125, 1.0]))[-16:]) == (0.5, 0.25, 0.125, 1.0)


def test_a_failed_shard_leaves_no_files(tmp_path):
    def fail() -> None:
        with ShardWriter(tmp_path, "train-000000") as writer:
            writer.add("000000", {"jpg": b"x"}, {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_keys_with_a_dot_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no dot"), ShardWriter(tmp_path, "train-000000") as writer:
        writer.add("bird.v2", {"jpg": b"x"}, {})


def test_reader_returns_the_components_in_the_tar(drawn_set):
    shards = ShardSet.open(drawn_set)
    assert shards.splits == {"train": 32, "test": 16}
    assert shards.detectors == ("spectral-residual", "gt")
    reader = pickle.loads(pickle.dumps(shards.split("train")))
    number = 0
    for tar in tars(drawn_set):
        if not tar.name.startswith("train"):
            continue
        with tarfile.open(tar) as plain:
            members = plain.getmembers()
            keys = list(dict.fromkeys(m.name.split(".", 1)[0] for m in members))
            for key in keys:
                sample = reader.read(number)
                for member in (m for m in members if m.name.startswith(f"{key}.")):
                    file = plain.extractfile(member)
                    assert file is not None
                    assert file.read() == sample[member.name.split(".", 1)[1]]
                info = meta(sample)
                assert shards.classes[label(sample)] == info["class"]
                np.testing.assert_allclose(box(sample, "gt"), info["boxes"][0], atol=1e-6)
                number += 1
    assert number == len(reader) == 32
    with pytest.raises(IndexError):
        reader.read(32)
    with pytest.raises(InputError, match="'rbd'.* spectral-residual, gt"):
        box(reader.read(0), "rbd")
    with pytest.raises(InputError, match=r"'val'.* train \(32\), test \(16\)"):
        shards.split("val")


def test_a_sample_without_its_image_is_the_same_and_few_bytes(copy, monkeypatch):
    reader = ShardSet.open(copy).split("train")
    whole, spans = reader.read(3), []
    read = reader.store.read
    monkeypatch.setattr(reader.store, "read", lambda *span: spans.append(span) or read(*span))
    part = reader.read(3, without="jpg")
    assert part == {name: data for name, data in whole.items() if name != "jpg"}
    assert meta(part) == meta(whole)
    assert sum(size for _, size, _ in spans) <= sum(512 + -(-len(data) // 512) * 512 for data in part.values())
    assert pickle.loads(pickle.dumps(reader)).read(3, "jpg") == part
    tar = copy / "train-000000.tar"
    content = tar.read_bytes()
    with tarfile.open(tar) as plain:
        members = {m.name.split(".", 1)[1]: m for m in plain if m.name.startswith(f"{reader.key(3)}.")}
    faults = {"jpg": None, "cls": "class index", "gt.npy": "no box by gt", "json": "not valid"}
    for name, fault in faults.items():
        at, size = members[name].offset_data, members[name].size
        tar.write_bytes(content[:at] + bytes(size) + content[at + size :])
        with pytest.raises(InputError, match="crc32"):
            reader.read(3)
        if fault is None:
            assert reader.read(3, without="jpg") == part
        else:
            with pytest.raises(InputError, match=fault):
                reader.read(3, without="jpg")


def test_open_files_are_closed_with_their_reader(drawn_set):
    reader = ShardSet.open(drawn_set).split("train")
    reader.read(0)
    [handle] = HANDLES.open_files(reader.store.owner)
    os.fstat(handle)
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_reader_that_outlives_its_module_prints_nothing_at_exit():
    """At exit Python clears modules in the reverse order of import; objects in older modules are freed later."""
    script = (
        "import sys, json\nfrom fgdata.shards import reader\n"
        "json.kept = reader.ShardSet.open(sys.argv[1]).split('train')\njson.kept.read(0)\nsys.kept = json, reader\n"
    )
    done = subprocess.run([sys.executable, "-c", script, TINY], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_undamaged_set_has_no_faults(drawn_set):
    manifest, faults = check(drawn_set)
    assert faults == []
    assert manifest["splits"]["train"]["samples"] == 32


def test_every_flipped_bit_is_found(copy):
    """120 single-bit flips in tars and indexes: check names the file; read refuses the damaged sample and no other."""
    rng = np.random.default_rng(0)
    files = [*tars(copy), *sorted(copy.glob("*.idx"))]
    for _ in range(120):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        _, faults = check(copy)
        assert len(faults) == 1
        assert path.name in faults[0]
        if path.suffix == ".idx":
            with pytest.raises(InputError, match=f"{path.name} is damaged"):
                ShardSet.open(copy)
        else:
            assert _refused(copy) == _samples_at(path, at)
        path.write_bytes(whole)
    assert check(copy)[1] == []


def _refused(folder: Path) -> list[str]:
    refused = []
    shards = ShardSet.open(folder)
    for split in shards.splits:
        for i in range(shards.splits[split]):
            try:
                shards.split(split).read(i)
            except InputError as fault:
                refused.append(str(fault).split("sample ")[1].split(" ")[0])
    return refused


def _samples_at(tar: Path, at: int) -> list[str]:
    """Keys of the samples that contain this byte, between their first component's data and the end of their json."""
    keys = []
    for line in tar.with_suffix(".idx").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1]) <= at < int(fields[-3]) + int(fields[-2]):
            keys.append(fields[3].split(".")[0])
    return keys


def test_a_damaged_sample_is_named(copy):
    path = tars(copy)[0]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    [fault] = check(copy)[1]
    key = path.with_suffix(".idx").read_text().splitlines()[1].split()[3].split(".")[0]
    assert f"sample {key}" in fault


def test_several_damaged_shards_are_named_in_the_order_of_the_set(copy):
    samples, damaged = [], tars(copy)
    for tar in damaged:
        tar.write_bytes(bytes([1]) + tar.read_bytes()[1:])
    _, faults = check(copy, samples.append)
    shards = [shard for split in ShardSet.open(copy).manifest["splits"].values() for shard in split["shards"]]
    assert samples == [shard["samples"] for shard in shards]
    assert [fault.split(".tar")[0] for fault in faults] == [str(copy / shard["name"]) for shard in shards]


@pytest.mark.parametrize("damage", ["cut tar", "no tar", "no index", "cut index"])
def test_missing_and_cut_files_are_named_and_refused(copy, damage):
    tar = tars(copy)[1]
    path = tar if "tar" in damage else tar.with_suffix(".idx")
    if damage.startswith("no"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-300])
    [fault] = check(copy)[1]
    assert path.name in fault
    with pytest.raises(InputError, match=path.name):
        ShardSet.open(copy)


def change(folder: Path, signs: bool = True, **changes) -> None:
    """Changes the manifest; `signs` also updates its digest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest | ({"digest": digest(manifest)} if signs else {})))


def test_newer_minor_is_read_and_newer_major_is_refused(copy):
    change(copy, format_version="1.7", a_new_key={"of": "ours"})
    assert ShardSet.open(copy).splits["train"] == 32
    change(copy, format_version="2.0")
    for refused in (ShardSet.open, check):
        with pytest.raises(InputError, match=r"manifest.json is format 2.0.* 1.x.*Upgrade"):
            refused(copy)


def test_an_edited_manifest_and_a_stray_tar_are_faults(copy):
    change(copy, signs=False, order_seed=7)
    (copy / "train-000099.tar").write_bytes(b"")
    first, second = check(copy)[1]
    assert "manifest.json was changed" in first
    assert "train-000099.tar does not belong" in second
    with pytest.raises(InputError, match=r"manifest.json was changed .*fgdata check .*copy"):
        ShardSet.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": "1.0"}', '{"format_version": null}'])
def test_a_damaged_manifest_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest.json is damaged"):
        ShardSet.open(copy)


def test_no_set_and_an_unfinished_set(tmp_path):
    with pytest.raises(InputError, match="nothing: .*fgdata list"):
        ShardSet.open(tmp_path / "nothing")
    with pytest.raises(InputError, match="no manifest.json.*fgdata build-shards"):
        ShardSet.open(tmp_path)
    (tmp_path / ".building").mkdir()
    with pytest.raises(InputError, match="unfinished.*fgdata build-shards"):
        ShardSet.open(tmp_path)


def test_golden_set(tmp_path):
    """shards/tiny is readable, and the same library versions write it again; `python tools/tiny.py` replaces it."""
    manifest, faults = check(TINY)
    assert faults == []
    sample = ShardSet.open(TINY).split("train").read(0)
    assert list(sample) == ["jpg", "cls", "rbd.npy", "gt.npy", "json"]
    subprocess.run(
        [sys.executable, TINY.parents[1] / "tools" / "tiny.py", tmp_path / "tiny"], check=True, capture_output=True
    )
    fresh = json.loads((tmp_path / "tiny" / "manifest.json").read_bytes())
    if fresh["versions"] != manifest["versions"]:
        pytest.skip(f"the golden set was written with {manifest['versions']}; installed are {fresh['versions']}")
    assert {p.name: p.read_bytes() for p in (tmp_path / "tiny").iterdir()} == {
        p.name: p.read_bytes() for p in TINY.iterdir()
    }


def test_a_set_without_splits_says_so(tmp_path, capsys):
    manifest = json.loads((TINY / "manifest.json").read_text())
    manifest |= {"splits": {}, "fallbacks": {}}
    (tmp_path / "set").mkdir()
    (tmp_path / "set/manifest.json").write_bytes(dump(signed(manifest)))
    with pytest.raises(InputError, match=r"set has no split 'train'; it has no samples\.$"):
        ShardSet.open(tmp_path / "set").split("train")
    outputs = {}
    for words in ("check", "score", "show", "list --folder", "add --saliency vsf --jobs 1"):
        main([*words.split(), str(tmp_path if words.startswith("list") else tmp_path / "set")])
        outputs[words.split()[0]] = "".join(capsys.readouterr())
    assert "is intact: 0 samples in 0 tars" in outputs["check"]
    assert "has no samples. Build another set" in outputs["score"]
    assert "has no samples. Build another set" in outputs["show"]
    assert "drawn: no samples; boxes rbd, gt" in outputs["list"]
    assert "added boxes by vsf to 0 samples of " in outputs["add"]


@pytest.mark.parametrize("travelled", [False, True])
def test_a_set_that_is_replaced_under_a_reader_is_named(copy: Path, travelled: bool):
    """Tars are opened when a sample of theirs is read. New tars under old indexes could give new boxes silently."""
    reader = ShardSet.open(copy).split("train")
    if travelled:
        reader = pickle.loads(pickle.dumps(reader))
    first = reader.read(0)
    assert main(["add", str(copy), "--saliency", "whole", "--jobs", "1"]) == 0
    assert reader.read(0) == first  # its tar is still open
    with pytest.raises(InputError, match=r"train-\d+\.tar was replaced while it was in use"):
        reader.read(len(reader) - 1)
