"""The lines of results.jsonl and finetune.jsonl: their checksums, damage of every bit, and files of other shapes."""

import json
import os
import resource
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgtrain.evaluate.records import append_record, read_records
from fgtrain.runs.files import read_json
from fgtrain.show.curves import curves

RECORDS = [
    {"evaluation": "knn", "step": 10, "accuracy": 0.5},
    {"evaluation": "retrieval", "map": 0.25, "versions": {"python": "3.12.1"}, "rates": [0.1, 0.01]},
    {"evaluation": "knn", "step": 20, "accuracy": 0.75},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A results.jsonl of RECORDS."""
    path = tmp_path / "results.jsonl"
    for record in RECORDS:
        append_record(path, record)
    return path


def values(path: Path) -> list[dict]:
    return [line.values for line in read_records(path)]


def test_a_line_ends_in_the_checksum_of_its_other_keys(tmp_path: Path):
    """The example of the module; the checksum is that of zlib, gzip and PNG."""
    file = tmp_path / "results.jsonl"
    append_record(file, {"evaluation": "knn", "accuracy": 0.5})
    assert file.read_text() == '{"evaluation": "knn", "accuracy": 0.5, "crc32": 3085262599}\n'
    (line,) = read_records(file)
    assert (line.values, line.checked) == ({"evaluation": "knn", "accuracy": 0.5}, True)


def test_every_flipped_bit_is_named_by_file_and_line(file: Path):
    whole = file.read_bytes()
    for position in range(8 * len(whole)):
        data = bytearray(whole)
        data[position // 8] ^= 1 << position % 8
        file.write_bytes(data)
        line = whole[: position // 8].count(b"\n") + 1
        with pytest.raises(InputError, match=rf"results\.jsonl, line ({line}|{line + 1}) "):
            read_records(file)


def test_an_incomplete_line_is_ignored_and_named_once_another_follows(file: Path, capsys):
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert values(file) == RECORDS[:2]
    assert not capsys.readouterr().err, "it is being written"
    file.write_bytes(whole[:-1])
    assert values(file) == RECORDS  # only the end of the line is missing
    for end in range(last + 1, len(whole) - 1):
        file.write_bytes(whole[:end])
        append_record(file, RECORDS[2])
        assert values(file) == RECORDS
    assert "results.jsonl, line 3 is incomplete: " in capsys.readouterr().err
    file.write_bytes(whole[:20] + whole[whole.index(b"\n") :])
    assert values(file) == RECORDS[1:]
    assert 'line 1 is incomplete: \'{"evaluation": "knn"\'. Delete that line, then rerun' in capsys.readouterr().err


def test_damaged_bytes_are_shown_short_and_escaped(file: Path):
    file.write_bytes(bytes(range(256)).replace(b"\n", b"") * 9)
    with pytest.raises(InputError) as fault:
        read_records(file)
    assert str(fault.value).isascii()
    assert str(fault.value).isprintable()
    assert len(str(fault.value)) < len(str(file)) + 160


def test_a_lenient_reader_leaves_out_damaged_lines_with_a_warning(tmp_path: Path, capsys):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n\xff\x00\n[1]\n{"step": 2}\n')
    assert [line.values for line in read_records(file, lenient=True)] == [{"step": 1}, {"step": 2}]
    warnings = capsys.readouterr().err.splitlines()
    assert [line.partition("metrics.jsonl, ")[2][:6] for line in warnings] == ["line 2", "line 3"]


def test_lines_of_earlier_versions_are_read_and_marked(file: Path):
    new = file.read_bytes()
    file.write_bytes(b'{"evaluation": "knn", "step": 1}\n{"evaluation": "kn\n{"evaluation": "knn", "step": 2}\n' + new)
    lines = read_records(file)
    assert [line.values["step"] for line in lines[:2]] == [1, 2]
    assert [line.checked for line in lines] == [False, False, True, True, True]
    assert [line.number for line in lines] == [1, 3, 4, 5, 6]
    file.write_bytes(new + b'{"evaluation": "knn", "step": 1}\n')
    with pytest.raises(InputError, match=r"results\.jsonl, line 4 has no checksum"):
        read_records(file)


@pytest.mark.parametrize(
    "content",
    [
        b"[1, 2]\n",
        b'"text"\n',
        b"garbage\n",
        b'{"a": "\xff"}\n',
        b'{"a": ' + b"1" * 4301 + b"}\n",
        b"[" * 100_000 + b"\n",
        b'{"a": ' + b"[" * 100_000 + b"}\n",
        b"\n",
        b'{"a": 1}{"a": 2}\n',
    ],
    ids=["list", "string", "garbage", "not UTF-8", "4,301 digits", "brackets", "nested", "blank", "two"],
)
def test_a_line_of_another_shape_is_named(content: bytes, tmp_path: Path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(b'{"step": 1}\n' + content)
    with pytest.raises(InputError, match=r"results\.jsonl, line 2 .*Delete that line"):
        read_records(file)


def test_only_regular_files_are_read(tmp_path: Path):
    assert read_records(tmp_path / "absent.jsonl") == []
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    for name in ("fifo.jsonl", "folder.jsonl", "device.jsonl"):
        with pytest.raises(InputError, match=f"{name} is not a regular file"):
            read_records(tmp_path / name)


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"0.5"', "true", "[0.5]", "null", "1" * 400])
def test_a_figure_that_is_not_a_finite_number_is_named(value: str, tmp_path: Path):
    file = tmp_path / "results.jsonl"
    file.write_text(f'{{"accuracy": {value}}}\n')
    (line,) = read_records(file)
    with pytest.raises(InputError, match=r"results\.jsonl, line 1 has accuracy = .*finite number"):
        line.figure("accuracy")


def test_a_line_that_does_not_fit_on_the_disk_is_removed(file: Path):
    whole = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(InputError, match=r"results\.jsonl could not be written: (No space left|File too large)"):
            append_record(file, {"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == whole
    append_record(file, {"n": 2})
    assert values(file) == [*RECORDS, {"n": 2}]


def test_json_of_other_readers_is_unaffected(file: Path):
    """A line is still one JSON object; jq and pandas see one more key."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "crc32"} for line in lines] == RECORDS


@pytest.mark.parametrize("name", ["results.jsonl", "config.json", "run.json"])
def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path, name: str):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(1 << 34)  # sparse: it takes no space on the disk
    with pytest.raises(InputError, match=rf"{name} has 17,179,869,184 bytes; the largest size allowed is 67,108,864"):
        read_records(path) if name.endswith("l") else read_json(path)


def test_the_metrics_of_a_long_run_may_be_larger(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    line = {"step": 1, "epoch": 0.5, "loss": 2.0}
    path.write_text("".join(json.dumps(line | {"step": step}) + " " * (1 << 25) + "\n" for step in (1, 2, 3)))
    assert curves(tmp_path)["loss"] == ([0.5] * 3, [2.0] * 3)
    with pytest.raises(InputError, match=r"metrics.jsonl has 100,\d{3},\d{3} bytes"):
        read_records(path)
