"""A stopped build resumes to the same bytes; a damaged unfinished set is repaired or refused."""

import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from shard_files import dataset, from_folder, hashes, jpeg

from fgdata.building import build as build_module
from fgdata.building import unfinished as unfinished_set
from fgdata.building.build import build
from fgdata.building.plan import refuse_other
from fgdata.building.rewrite import add
from fgdata.cli import main
from fgdata.datasets import Record
from fgdata.errors import InputError
from fgdata.shards.check import check
from fgdata.shards.manifest import dump, signed


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bytes(tmp_path):
    """Three kills, of a command with its worker processes; tools/torture.py repeats this for hours."""
    settings = "--classes 4 --images-per-class 24 --size 128 --shard-samples 6 --jobs 2".split()
    settings += ["--saliency", "spectral-residual", "gt"]

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "fgdata.cli", "build-shards", *settings, "--out", str(tmp_path / out)]

    def shards() -> int:
        return len(list((tmp_path / "killed").glob("*.tar")))

    subprocess.run(command("whole"), check=True, capture_output=True)
    moment, kills, counts = random.Random(0), 0, []
    while kills < 3:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = shards() + moment.randrange(3)  # 0: during the start; 1 and 2: while a later shard is built
        while process.poll() is None and shards() < goal:
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 0.2))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
            counts.append(shards())
        else:  # it ended before the kill; start again
            assert process.returncode == 0
            assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert max(counts) > 0, "no kill came after a finished shard, so nothing was resumed"
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_an_unfinished_build_refuses_other_settings_too(tmp_path):
    data = dataset(tmp_path, {f"{i}.jpg": jpeg() for i in range(3)} | {"z.jpg": jpeg()})
    bad = replace(data, load=partial(fail_on, "z.jpg", tmp_path))
    with pytest.raises(InputError, match=r"z.jpg is cursed"):
        build(bad, tmp_path / "set", saliency=("gt",), shard_samples=1)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert not list((tmp_path / "set").glob("**/*.part"))
    with pytest.raises(InputError, match=r"4 images then, 3 now"):
        build(replace(data, records=data.records[1:]), tmp_path / "set", saliency=("gt",), shard_samples=1)
    with pytest.raises(InputError, match=r"shard_samples: 1 .*2"):
        build(data, tmp_path / "set", saliency=("gt",), shard_samples=2)
    assert build(data, tmp_path / "set", saliency=("gt",), shard_samples=1).manifest["splits"]["train"]["samples"] == 4
    assert check(tmp_path / "set")[1] == []


def fail_on(name: str, root: Path, record: Record):
    """Succeeds the first time, in the check before the build, and fails when the sample is made."""
    marker = root / f"{record.id}.read"
    if record.file == name and marker.exists():
        raise InputError(f"{name} is cursed")
    marker.touch()
    return from_folder(root, record)


def test_a_build_that_lacks_only_its_manifest_reports_that_it_wrote_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 4 --size 64 --saliency spectral-residual --jobs 1".split()
    with monkeypatch.context() as stopped:
        stopped.setattr("fgdata.building.finish.merge", stop)
        assert main([*words, "--keep-maps"]) == 130
    assert main([*words, "--keep-maps"]) == 0
    assert "already built; wrote the manifest" in capsys.readouterr().out
    assert main([*words, "--keep-maps"]) == 0
    assert "already complete" in capsys.readouterr().out


def stop(*_):
    raise KeyboardInterrupt


DAMAGES = ("train-000000.tar", "train-000000.idx", "test-000000.idx", ".building/train-000000.maps.h5")


@pytest.fixture
def unfinished(birds, tmp_path, monkeypatch):
    """A build stopped before its manifest, and the call that resumes it."""
    few = replace(birds, records=birds.records[:12])
    resume = partial(build, few, tmp_path / "set", saliency=("spectral-residual",), keep_maps=True)
    with monkeypatch.context() as stopped:
        stopped.setattr("fgdata.building.build.find_damaged", stop)
        with pytest.raises(KeyboardInterrupt):
            resume()
    build(few, tmp_path / "direct", saliency=("spectral-residual",), keep_maps=True)
    return tmp_path / "set", resume


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_of_a_finished_shard_is_built_again(unfinished, tmp_path, capsys, name):
    out, resume = unfinished
    flip(out / name, 700)
    done = resume()
    assert f"{out / name} is damaged" in capsys.readouterr().err
    assert 0 < done.written < 12, "only its own shard"
    assert hashes(out) == hashes(tmp_path / "direct")


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_during_the_build_itself_is_repaired(birds, tmp_path, monkeypatch, name):
    few, out = replace(birds, records=birds.records[:12]), tmp_path / "set"
    append = build_module.append_log

    def damage(folder, line):  # the shard is finished, the set is not
        append(folder, line)
        if name.removeprefix(".building/").startswith(line["shard"]) and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            flip(out / name, 700)

    monkeypatch.setattr(build_module, "append_log", damage)
    build(few, out, saliency=("spectral-residual",), keep_maps=True)
    assert (tmp_path / "once").exists()
    build(few, tmp_path / "direct", saliency=("spectral-residual",), keep_maps=True)
    assert hashes(out) == hashes(tmp_path / "direct")


def test_damage_that_returns_is_an_error(unfinished, monkeypatch):
    out, resume = unfinished
    monkeypatch.setattr("fgdata.building.unfinished.find_damage", lambda out, fact: out / f"{fact['name']}.tar")
    with pytest.raises(InputError, match="train-000000.tar is damaged again .*disk"):
        resume()
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("name", ["plan.json", "train-000000.json"])
def test_a_damaged_plan_or_mark_is_refused_wherever_it_is_damaged(unfinished, tmp_path, name):
    out, resume = unfinished
    path = out / ".building" / name
    intact = path.read_bytes()
    key = intact.index(b'"digest"')  # without its digest it is a file of an older version
    for position in (*range(0, key, 7), *range(key + 10, len(intact), 7)):
        flip(path, position)
        with pytest.raises(InputError, match=rf"{name} is damaged.*rm "):
            resume()
        path.write_bytes(intact)
    resume()
    assert hashes(out) == hashes(tmp_path / "direct")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"9" * 5000, b"[" * 100_000, b'{"entry": 3}'])
def test_a_mark_of_any_other_content_is_refused(unfinished, content):
    out, resume = unfinished
    (out / ".building" / "train-000000.json").write_bytes(content)
    with pytest.raises(InputError, match=r"train-000000.json is damaged.* rm \S+train-000000.json"):
        resume()
    (out / ".building" / "train-000000.json").unlink()
    (out / ".building" / "plan.json").write_bytes(content)
    with pytest.raises(InputError, match=r"plan.json is damaged.* rm -r \S+set"):
        resume()


ODD = (None, True, -1, 1.5, "text", [], {}, [[]], {"a": {"b": "c"}}, {"a": [1]}, 10**30)


@pytest.mark.parametrize("name", ["plan.json", "train-000000.json"])
def test_an_untrusted_unfinished_set_with_odd_inner_types_is_refused_or_resumed(unfinished, tmp_path, name):
    """Every value, at every depth, is replaced and the digest is right: an error of the input, or the right bytes."""
    out, resume = unfinished
    path = out / ".building" / name
    original = json.loads(path.read_bytes())
    del original["digest"]
    for place in _places(original):
        for odd in ODD:
            value = json.loads(json.dumps(original))
            inner = value
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            path.write_bytes(dump(signed(value)))
            with suppress(InputError):
                unfinished_set.read_plan(out)
                unfinished_set.read_mark(out, "train-000000")
                if name == "plan.json":
                    refuse_other(out, value, original, (value.get("begun_with"), 3), ())
    path.write_bytes(dump(signed(original)))
    resume()
    assert hashes(out) == hashes(tmp_path / "direct")


def _places(value, place=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from _places(inner, (*place, key))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "train-000001"},
        {"entry": {"name": "../x"}},
        {"entry": {"sha256": "0"}},
        {"entry": {"samples": True}},
        {"fallbacks": {"vsf": {"flat": "1"}}},
        {"skipped": [{"file": "a"}]},
        {"skipped": ["a.jpg"]},
        {"maps_bytes": "9"},
    ],
)
def test_a_mark_of_other_types_or_of_another_shard_is_refused(unfinished, change):
    out, resume = unfinished
    path = out / ".building" / "train-000000.json"
    value = json.loads(path.read_bytes())
    for key, new in change.items():
        value[key] = {**value[key], **new} if isinstance(new, dict) else new
    path.write_bytes(dump(signed(value)))
    with pytest.raises(InputError, match=r"train-000000.json is damaged: .* rm \S+train-000000.json"):
        resume()


def test_what_is_not_of_the_build_stays(unfinished, tmp_path):
    out, resume = unfinished
    (out / ".building" / "notes.txt").write_text("mine")
    (out / ".building" / "folder-000000.json").mkdir()
    resume()
    left = sorted(entry.name for entry in (out / ".building").iterdir())
    assert left == ["folder-000000.json", "notes.txt"]
    assert check(out)[1] == []
    add(out, "vsf")
    assert sorted(entry.name for entry in (out / ".building").iterdir()) == left
    linked = tmp_path / "linked"
    linked.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (linked / ".building").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not a folder that a build created"):
        unfinished_set.read_plan(linked)


def test_a_set_begun_by_an_older_version_is_resumed(unfinished, tmp_path):
    """Its plan and marks have no digests, its marks no sha256 of maps, and its versions no Pillow and h5py."""
    out, resume = unfinished
    for path in (out / ".building").glob("*.json"):
        old = json.loads(path.read_bytes())
        for key in ("digest", "maps_sha256"):
            old.pop(key, None)
        for name in ("pillow", "h5py"):
            old.get("versions", {}).pop(name, None)
        path.write_bytes(dump(old))
    assert resume().written == 0
    assert hashes(out) == hashes(tmp_path / "direct")


@pytest.mark.parametrize("recorded", [None, 1])
def test_a_build_begun_with_other_rules_for_images_is_not_resumed(unfinished, recorded):
    out, resume = unfinished
    path = out / ".building" / "plan.json"
    plan = json.loads(path.read_bytes())
    assert plan["images"]["version"] == 2
    plan["images"] = {"max_side": None, "quality": 90} | ({} if recorded is None else {"version": recorded})
    path.write_bytes(dump(signed(plan)))
    text = "null" if recorded is None else "1"
    with pytest.raises(InputError, match=rf"different settings(?s:.*)images\.version: {text} in the set, 2 now"):
        resume()


@pytest.mark.parametrize("reencoded", [0, 3])
def test_a_complete_set_of_other_rules_stays_complete_unless_they_matter(unfinished, reencoded):
    out, resume = unfinished
    resume()
    manifest = json.loads((out / "manifest.json").read_bytes())
    del manifest["images"]["version"]
    (out / "manifest.json").write_bytes(dump(signed(manifest | {"reencoded": reencoded})))
    assert check(out)[1] == []
    add(out, "vsf", out=out.parent / "more")
    if not reencoded:
        assert resume().was_complete
        return
    with pytest.raises(InputError, match=r"images\.version: null in the set, 2 now"):
        resume()


def test_files_of_killed_processes_are_removed_and_a_users_files_are_not(unfinished):
    out, resume = unfinished
    (out / "mine.part").touch()

    def leave_parts() -> list[Path]:
        parts = [out / "train-000000.tar.0a1b2c3d.part", out / "train-000000.idx.4711.part"]
        parts += [out / ".building" / "x.json.00000000.part"] if (out / ".building").exists() else []
        for part in parts:
            part.touch()
        return parts

    parts = leave_parts()
    assert resume().written == 0
    assert not any(part.exists() for part in parts)
    parts = leave_parts()
    assert resume().was_complete
    assert not any(part.exists() for part in parts)
    assert (out / "mine.part").exists()
    (out / "mine.part").unlink()
    assert check(out)[1] == []


def test_a_part_that_a_lost_worker_leaves_during_the_build_is_removed(unfinished, monkeypatch):
    out, resume = unfinished
    part = out / "train-000000.tar.0a1b2c3d.part"
    monkeypatch.setattr("fgdata.building.build.find_damaged", lambda *_: part.touch() or {})
    resume()
    assert check(out)[1] == []


def test_a_full_disk_names_the_file_and_leaves_no_temporary_file(birds, tmp_path):
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    few = replace(birds, records=birds.records[:12])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 300, 4096, 20_000):
        out = tmp_path / str(limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                build(few, out, saliency=("spectral-residual",), keep_maps=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert caught.value.filename.startswith(str(out))
        assert not list(out.rglob("*.part"))
        assert not (out / "manifest.json").exists()
        assert build(few, out, saliency=("spectral-residual",), keep_maps=True).manifest["splits"]["train"]
        assert check(out)[1] == []


def test_other_detectors_are_one_line_and_the_advice_adds_them(kept, tmp_path, birds, capsys):
    copy = Path(shutil.copytree(kept, tmp_path / "a set"))
    settings = {"shard_samples": 12, "keep_maps": True}
    with pytest.raises(InputError) as fault:
        build(birds, copy, saliency=("vsf",), **settings)
    assert str(fault.value).splitlines()[1:-1] == ["  detectors: spectral-residual, gt in the set, vsf now"]
    with pytest.raises(InputError) as fault:
        build(birds, copy, saliency=("spectral-residual", "gt", "vsf"), **settings)
    assert (
        str(fault.value).splitlines()[1]
        == "  detectors: spectral-residual, gt in the set, spectral-residual, gt, vsf now"
    )
    advice = str(fault.value).split("Add them to the set: ")[1].splitlines()[0]
    assert main([*shlex.split(advice)[1:], "--jobs", "1"]) == 0
    assert build(birds, copy, saliency=("spectral-residual", "gt", "vsf"), **settings).was_complete
