"""fgtrain compare: groups, rows, intervals, and results on different shard sets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.evaluate import compare
from fgtrain.evaluate.records import append_record
from fgtrain.runs.files import write_json
from fgtrain.settings import common, methods
from fgtrain.settings.file import to_dict

KNN = {"evaluation": "knn", "step": 10, "k": 20, "temperature": 0.07, "size": 64, "digest": "a" * 64}


def write_run(path: Path, settings: common.Config, *lines: dict, digest: str = "a" * 64) -> Path:
    """A run directory that holds these results."""
    path.mkdir(parents=True)
    write_json(path / "config.json", to_dict(settings))
    write_json(path / "run.json", {"shards": {"digest": digest}})
    for line in lines:
        append_record(path / "results.jsonl", line)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of BYOL and one run of CVSA."""
    byol, cvsa = methods.ByolConfig(), methods.CvsaConfig(epochs=300)
    both = replace(byol, seed=1, machine=common.Machine(device="cpu"))
    return [
        write_run(tmp_path / "byol", byol, {**KNN, "accuracy": 0.1}, {**KNN, "accuracy": 0.4}),
        write_run(tmp_path / "byol-1", both, {**KNN, "accuracy": 0.5}, {**KNN, "k": 5, "accuracy": 0.7}),
        write_run(tmp_path / "cvsa", cvsa, {**KNN, "accuracy": 0.6}),
    ]


def test_runs_that_differ_only_in_their_seed_are_one_group(runs: list[Path]):
    (byol, cvsa), _ = compare.compare(runs)
    assert (byol.seeds, cvsa.seeds) == ([0, 1], [0])
    values = {column.settings: value for column, value in byol.values.items()}
    assert list(values.values()) == [[0.4, 0.5], [0.7]]  # the later of two lines counts; another k is another column
    assert compare.different([byol, cvsa]) == ["method", "epochs"]


def test_a_run_named_twice_counts_once(runs: list[Path]):
    (group,), _ = compare.compare([runs[0], runs[0]])
    assert group.seeds == [0]


def test_other_training_data_is_another_group(runs: list[Path], tmp_path: Path):
    other = write_run(tmp_path / "other", methods.ByolConfig(seed=2), {**KNN, "accuracy": 0.2}, digest="b" * 64)
    assert [group.seeds for group in compare.compare([runs[0], other])[0]] == [[0], [2]]


def test_table_states_settings_seeds_and_shard_set(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", *map(str, runs)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "45.0 ± 63.5" in printed  # t of 1 degree of freedom, 12.706, times half the difference
    assert "70.0 (1 of 2)" in printed
    assert "byol: byol, epochs 400 (2 runs of seeds 0, 1, step 10)" in printed
    assert "one shard set (digest aaaaaaaaaaaa)" in printed


def test_results_on_different_shard_sets_are_in_separate_sections(tmp_path: Path, capsys):
    one = write_run(tmp_path / "one", methods.ByolConfig(), {**KNN, "accuracy": 0.2})
    two = write_run(tmp_path / "two", methods.ByolConfig(seed=1), {**KNN, "accuracy": 0.3, "digest": "b" * 64})
    assert cli.main(["compare", str(one), str(two)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 different shard sets" in printed
    assert "aaaaaaaaaaaa, then bbbbbbbbbbbb" in printed
    assert "20.0 (1 of 2)" in printed


def test_json_holds_means_intervals_and_values(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", *map(str, runs), "--json"]) == 0
    byol, cvsa = json.loads(capsys.readouterr().out)
    assert byol["settings"] == {"method": "byol", "epochs": 400}
    assert byol["results"][0]["mean"] == pytest.approx(0.45)
    assert byol["results"][0]["interval_half"] == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert byol["results"][0]["values"] == [0.4, 0.5]
    assert cvsa["results"][0]["interval_half"] is None


def test_folders_that_cannot_be_compared_are_named(runs: list[Path], tmp_path: Path):
    bare = write_run(tmp_path / "bare", methods.ByolConfig())
    groups, (first, second) = compare.compare([runs[0], tmp_path, bare])
    assert [group.runs for group in groups] == [[runs[0]]]
    assert f"{tmp_path} " in first
    assert "config.json" in first
    assert f"{bare} has no results" in second
    assert "fgtrain eval knn" in second
    with pytest.raises(InputError, match="fgtrain compare runs/"):
        compare.compare([])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.jsonl", b'{"evaluation": "knn", "crc32": 1}'),
        ("results.jsonl", b"[1]"),
        ("results.jsonl", b'{"evaluation": ["knn"]}'),
        ("results.jsonl", json.dumps({**KNN, "accuracy": "0.5"}).encode()),
        ("results.jsonl", json.dumps({**KNN, "accuracy": float("nan")}).encode()),
        ("results.jsonl", json.dumps({**KNN, "accuracy": 0.5, "k": {}}).encode()),
        ("results.jsonl", json.dumps({**KNN, "accuracy": 0.5, "step": "10"}).encode()),
        ("results.jsonl", json.dumps({**KNN, "accuracy": 0.5, "digest": None}).encode()),
        ("results.jsonl", json.dumps({**KNN, "evaluation": "linear", "accuracy": 0.5, "fraction": "1"}).encode()),
        ("results.jsonl", b"\xff" * 20),
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("run.json", b"[]"),
        ("run.json", b'{"shards": ["digest"]}'),
    ],
    ids=range(14),
)
def test_a_damaged_run_is_named_and_the_others_are_compared(file: str, content: bytes, runs: list[Path], capsys):
    (runs[1] / file).write_bytes(content + b"\n")
    assert cli.main(["compare", *map(str, runs)]) == 2
    printed = capsys.readouterr()
    assert "60.0" in printed.out
    assert str(runs[1] / file) in printed.err
    assert cli.main(["compare", *map(str, runs), "--json"]) == 2
    assert [len(group["runs"]) for group in json.loads(capsys.readouterr().out)] == [1, 1]


def test_results_of_earlier_versions_are_compared_and_counted_once(runs: list[Path], capsys):
    lines = [json.dumps({**KNN, "accuracy": 0.5, "k": k}) + "\n" for k in (5, 20)]
    (runs[0] / "results.jsonl").write_text("".join(lines))
    assert cli.main(["compare", *map(str, runs)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("without a checksum") == 1
    assert f"2 results in {runs[0] / 'results.jsonl'}" in printed


@pytest.mark.parametrize("name", ["[red]a", "a[/]b", "[/x]", ":smile:", "[b", "ends\\"])
def test_a_name_is_never_markup(name: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    runs = [write_run(Path(name), methods.ByolConfig(), {**KNN, "accuracy": 0.5})]
    runs.append(write_run(Path("deep") / name, methods.CvsaConfig(), {**KNN, "accuracy": 0.5}))
    assert cli.main(["compare", *map(str, runs)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(name) == 4  # two headers and two lines below the table
