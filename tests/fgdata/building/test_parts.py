"""Parts on several machines give the set of one; `finish` lists what is missing."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from shard_files import hashes

from fgdata.building import unfinished
from fgdata.building.build import build
from fgdata.building.finish import finish
from fgdata.building.parts import Part, parse_part
from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files.atomic import write_once
from fgdata.shards.check import check

COMMAND = "fgdata build-shards --out set"


@pytest.fixture
def build_part(build_part):
    return partial(build_part, command=COMMAND)


@pytest.mark.parametrize("count", [3, 20])
def test_parts_and_finish_give_the_bytes_of_one_machine(build_part, tmp_path, direct, count):
    written = [build_part(part=Part(index, count)).written for index in reversed(range(count))]
    assert sum(written) == 48
    done = finish(tmp_path / "set")
    assert hashes(tmp_path / "set") == direct
    assert not (tmp_path / "set" / ".building").exists()
    assert len((tmp_path / "set" / "build.jsonl").read_text().splitlines()) == 11
    assert finish(tmp_path / "set").was_complete
    assert build_part(part=Part(0, count)).was_complete
    assert done.manifest["splits"]["train"]["samples"] == 32


def test_every_shard_is_in_one_part():
    for shards in (0, 1, 7, 64):
        for count in (1, 2, 5, 64, 100):
            shares = [Part(index, count).share(shards) for index in range(count)]
            assert [number for share in shares for number in share] == list(range(shards))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_finish_lists_what_is_missing_and_the_commands_that_build_only_that(build_part, tmp_path, direct):
    for index in (0, 2):
        build_part(part=Part(index, 4))
    with pytest.raises(InputError) as refused:
        finish(tmp_path / "set")
    assert str(refused.value).splitlines() == [
        f"{tmp_path / 'set'}: 6 of 11 shards missing: train-000002 to train-000004, test-000001 to test-000003.",
        "Build only these: rerun 2 parts. Shards that exist are not built again.",
        f"  {COMMAND} --part 1/4",
        f"  {COMMAND} --part 3/4",
        "As a Slurm array: --array=1,3",
        f"Then: fgdata finish {tmp_path / 'set'}",
        f"Or build them on this machine and finish the set: {COMMAND}",
    ]
    assert build_part(part=Part(0, 4)).written == 0, "finished shards are not built again"
    assert build_part().written == 26, "without --part the rest is built here"
    assert hashes(tmp_path / "set") == direct


def test_finish_names_a_damaged_shard_and_its_part_builds_it_again(build_part, tmp_path, direct):
    for index in range(3):
        build_part(part=Part(index, 3))
    tar = tmp_path / "set" / "train-000004.tar"
    data = bytearray(tar.read_bytes())
    data[900] ^= 1
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"train-000004.tar is damaged(.|\n)*1 of 11 shards missing: train-000004\.\n"):
        finish(tmp_path / "set")
    assert build_part(part=Part(1, 3)).written == 5
    finish(tmp_path / "set")
    assert hashes(tmp_path / "set") == direct


def test_a_part_with_other_settings_or_in_another_folder_is_refused(build_part, tmp_path):
    build_part(part=Part(0, 2))
    with pytest.raises(InputError, match=r"shard_samples: 5 in the set, 6 now"):
        build_part(shard_samples=6, part=Part(1, 2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(InputError, match=r"is not empty"):
        build_part(out=tmp_path / "full", part=Part(1, 2))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match=r"the folder does not exist"):
        finish(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"is not a shard set"):
        finish(tmp_path / "full")


@pytest.mark.parametrize(
    ("text", "variables", "part"),
    [
        ("0/1", {}, Part(0, 1)),
        ("7/8", {"SLURM_ARRAY_TASK_ID": "3"}, Part(7, 8)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "3"}, Part(3, 8)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "0", "SLURM_ARRAY_TASK_ID": ""}, Part(0, 8)),
        ("auto/8", {"AWS_BATCH_JOB_ARRAY_INDEX": "5", "JOB_COMPLETION_INDEX": "5"}, Part(5, 8)),
    ],
)
def test_a_part_is_parsed(text, variables, part):
    assert parse_part(text, variables) == part


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("8/8", {}, "parts count from 0, so the first number must be 0 to 7. For a Slurm array: --array=0-7"),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "8"}, "--array=0-7"),
        ("0/0", {}, "1 to 100,000"),
        ("3", {}, "must be I/N"),
        ("-1/3", {}, "must be I/N"),
        ("auto/3", {}, "none of SLURM_ARRAY_TASK_ID, .* is set"),
        ("auto/3", {"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "2"}, "is not one index"),
        ("auto/3", {"SLURM_ARRAY_TASK_ID": "x"}, "is not one index"),
    ],
)
def test_a_bad_part_is_refused(text, variables, message):
    with pytest.raises(InputError, match=message):
        parse_part(text, variables)


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "build-shards --classes 2 --images-per-class 4 --size 48 --saliency spectral-residual --jobs 1".split()
    words += ["--shard-samples", "3"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert main([*words, "--part", "auto/2"]) == 0
    assert "When all 2 parts are built: fgdata finish shards/drawn" in capsys.readouterr().out
    assert main(["finish", "shards/drawn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"  fgdata {' '.join(words)} --part 0/2" in lines
    assert main([*words, "--part=0/2"]) == 0
    assert main(["finish", "shards/drawn", "--jobs", "2"]) == 0
    assert (
        "8 samples of 2 classes (6 train, 2 test). All shards are intact; wrote the manifest" in capsys.readouterr().out
    )
    assert check(Path("shards/drawn"))[1] == []


def test_a_part_that_was_killed_is_built_again(build_part, tmp_path, direct):
    words = "--classes 4 --images-per-class 12 --size 96 --saliency spectral-residual gt --shard-samples 5".split()
    words = [sys.executable, "-m", "fgdata.cli", "build-shards", *words, "--keep-maps", "--out", str(tmp_path / "set")]
    words += ["--jobs", "1", "--part", "0/2"]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (tmp_path / "set" / ".building" / "plan.json").exists():
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -9
    assert len(list((tmp_path / "set" / ".building").glob("*.owner"))) == 1
    for index in (1, 0):
        build_part(part=Part(index, 2))
    finish(tmp_path / "set")
    assert hashes(tmp_path / "set") == direct


def test_a_file_is_written_once(tmp_path):
    assert write_once(tmp_path / "a", b"1")
    assert not write_once(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_refused_part_leaves_nothing(build_part, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("no")

    monkeypatch.setattr("fgdata.building.build.DATASETS", {})
    monkeypatch.setattr("fgdata.building.build._refuse_bad_images", refuse)
    with pytest.raises(InputError, match="no"):
        build_part(out=tmp_path / "new" / "set", part=Part(0, 2))
    assert not (tmp_path / "new").exists()


def test_a_finish_that_loses_a_race_finds_the_set_complete(build_part, tmp_path, direct, monkeypatch):
    """Another process finishes the set after this one has read its plan, and before it owns the shards."""
    for index in range(2):
        build_part(part=Part(index, 2))
    read_plan = unfinished.read_plan

    def overtaken(out):
        plan = read_plan(out)
        monkeypatch.setattr(unfinished, "read_plan", read_plan)
        assert not finish(out).was_complete
        return plan

    monkeypatch.setattr(unfinished, "read_plan", overtaken)
    assert finish(tmp_path / "set").was_complete
    assert hashes(tmp_path / "set") == direct
    assert not (tmp_path / "set" / ".building").exists()


def test_a_part_log_that_is_gone_does_not_stop_finish(build_part, tmp_path, direct):
    """Another process may have merged it since the folder was listed; a link to nothing looks the same."""
    build_part(part=Part(0, 1))
    (tmp_path / "set" / ".building" / "0123456789abcdef.jsonl").symlink_to("gone")
    finish(tmp_path / "set")
    assert hashes(tmp_path / "set") == direct
    assert not (tmp_path / "set" / ".building").exists()


def test_a_shard_whose_images_were_all_skipped_needs_no_files(birds, tmp_path):
    """`finish` removes its tar before it writes the manifest; killed in between, it must be able to run again."""
    out, name = tmp_path / "set", "train-000000"
    build(birds, out, saliency=("gt",), shard_samples=16, part=Part(0, 1))
    fact = unfinished.read_mark(out, name)
    assert fact is not None
    fact["entry"]["samples"] = 0
    unfinished.write_mark(out, fact, None)
    for end in ("tar", "idx"):
        (out / f"{name}.{end}").unlink()
    assert finish(out).manifest["splits"]["train"]["samples"] == 16
