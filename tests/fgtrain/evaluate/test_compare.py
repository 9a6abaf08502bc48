"""fgtrain compare: groups, rows, intervals, and results on different shard sets."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgdata.files.owners import owning
from fgdata.views import ViewSpec
from fgtrain import cli
from fgtrain.evaluate import compare
from fgtrain.evaluate.records import append_record
from fgtrain.runs.files import write_json
from fgtrain.runs.rundir import OWNERS, RunDir
from fgtrain.settings import common, comparisons, methods, papn, recipes
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
    columns = compare.columns_of([byol, cvsa])
    assert [byol.values(c) for c in columns] == [[0.4, 0.5], [0.7]]  # the later of two lines counts
    assert [dict(c.settings)["k"] for c in columns] == [20, 5]  # another k is another column
    assert compare.different([byol, cvsa]) == ["method", "epochs"]


def test_a_run_named_twice_counts_once(runs: list[Path]):
    (group,), _ = compare.compare([runs[0], runs[0]])
    assert group.seeds == [0]


def test_other_training_data_is_another_group(runs: list[Path], tmp_path: Path):
    other = write_run(tmp_path / "other", methods.ByolConfig(seed=2), {**KNN, "accuracy": 0.2}, digest="b" * 64)
    groups, _ = compare.compare([runs[0], other])
    assert [group.seeds for group in groups] == [[0], [2]]
    assert compare.names_of(groups) == ["byol, shard set aaaaaaaaaaaa", "byol, shard set bbbbbbbbbbbb"]


def test_rows_are_named_by_what_differs_within_a_method(runs: list[Path], tmp_path: Path):
    swap = methods.ByolConfig(views=ViewSpec(crop="saliency-swap"))
    groups, _ = compare.compare([*runs, write_run(tmp_path / "swap", swap, {**KNN, "accuracy": 0.5})])
    assert compare.names_of(groups) == ["byol, views.crop rrc", "cvsa", "byol, views.crop saliency-swap"]


def test_a_row_has_the_name_of_its_recipe_and_an_unfinished_run_says_so(tmp_path: Path, capsys):
    """moco, dilo and moco-sinkhorn are recipes of one method."""
    paths = []
    for name in ("moco", "dilo", "moco-sinkhorn"):
        paths.append(write_run(tmp_path / name, recipes.RECIPES[name](), {**KNN, "accuracy": 0.5}))
        RunDir(paths[-1]).note(name=name, status="done", step=10, total=10)
    groups, _ = compare.compare(paths)
    assert compare.names_of(groups) == ["moco", "dilo", "moco-sinkhorn"]
    for form in ("table", "latex", "markdown", "csv", "json"):
        assert cli.main(["compare", *map(str, paths), "--format", form]) == 0
        printed = "".join(capsys.readouterr())
        assert "moco-sinkhorn" in printed
        assert "dilo" in printed
        assert "step 10;" in printed
        assert "step 10 of" not in printed
    RunDir(paths[1]).note(status="stopped", step=10, total=1200)
    assert cli.main(["compare", *map(str, paths)]) == 0
    assert "(seed 0; step 10 of 1,200, stopped; " in " ".join(capsys.readouterr().out.split())
    RunDir(paths[1]).note(status="running")
    with owning(paths[1] / OWNERS, "is training in it"):
        assert "step 10 of 1,200, running; " in printed_table(capsys, *map(str, paths))
    assert "step 10 of 1,200, interrupted; " in printed_table(capsys, *map(str, paths)), "it was killed"
    RunDir(paths[0]).note(name="../gone")
    assert compare.read_run(paths[0]).recipe == "moco", "a name that is no recipe: the method"


def printed_table(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["compare", *words]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("extend", None, "no extend"),
        ("data.backgrounds", [], "no data.backgrounds"),
        ("views.matte_grey", True, "views.matte-grey"),
        ("views.matte_grey", False, "no views.matte-grey"),
        ("k", 0, "k 0"),
        ("size", 64, "64 px"),
    ],
)
def test_settings_in_words(key: str, value: object, words: str):
    assert compare.describe(key, value) == words


def test_table_states_settings_seeds_and_shard_set(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    printed = printed_table(capsys, *map(str, runs))
    assert "45.0 ± 63.5" in printed  # t of 1 degree of freedom, 12.706, times half the difference
    assert "70.0 (1 of 2)" in printed
    assert f"byol: {runs[0]}, {runs[1]} (seeds 0, 1; step 10; epochs 400)" in printed
    assert "one shard set (digest aaaaaaaaaaaa)" in printed
    assert "two seeds is of little use" in printed
    assert f"Measure: fgtrain eval knn {runs[0]} {runs[2]} --k 5 --size 64" not in printed  # one line a group
    assert f"{runs[0]} has no such knn result. Measure: fgtrain eval knn {runs[0]} --k 5 --size 64" in printed


def test_labels_name_the_rows(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    printed = printed_table(capsys, *map(str, runs), "--labels", "ours, first", "theirs")
    assert "ours, first: " in printed
    assert "byol: " not in printed
    assert cli.main(["compare", *map(str, runs), "--labels", "one"]) == 2
    assert "these 2 rows, in this order: byol; cvsa" in capsys.readouterr().err


def test_a_run_without_results_leaves_a_blank_and_a_line(runs: list[Path], tmp_path: Path, capsys):
    bare = write_run(tmp_path / "bare", methods.MocoConfig())
    printed = printed_table(capsys, str(runs[2]), str(bare), "--format", "csv")
    assert printed.splitlines()[-1].endswith("moco,group,,,")
    assert cli.main(["compare", str(runs[2]), str(bare)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{bare} has no results yet. Measure: fgtrain eval all {bare}" in said
    assert cli.main(["compare", str(bare)]) == 2
    assert "has no results yet" in capsys.readouterr().err


def test_results_on_different_shard_sets_are_separate_columns(tmp_path: Path, capsys):
    one = write_run(tmp_path / "one", methods.ByolConfig(), {**KNN, "accuracy": 0.2})
    two = write_run(tmp_path / "two", methods.ByolConfig(seed=1), {**KNN, "accuracy": 0.3, "digest": "b" * 64})
    printed = printed_table(capsys, str(one), str(two))
    assert "2 different shard sets: digests aaaaaaaaaaaa, bbbbbbbbbbbb" in printed
    assert "20.0 (1 of 2)" in printed
    assert "set aaaaaaa" in printed


@pytest.fixture
def scored(tmp_path: Path) -> list[Path]:
    """Two seeds of BYOL and one of MoCo, with the figures of their untrained networks."""
    knn = {**KNN, "chance": 0.05}
    both = {"evaluation": "retrieval", "step": 10, "size": 64, "digest": "a" * 64}
    both |= {"rank1": 0.3, "rank5": 0.6, "map": 0.2, "map_chance": 0.04, "untrained": 0.11, "untrained_rank1": 0.12}
    return [
        write_run(tmp_path / "a", methods.ByolConfig(), {**knn, "accuracy": 0.4, "untrained": 0.1}, both),
        write_run(tmp_path / "b", methods.ByolConfig(seed=1), {**knn, "accuracy": 0.5, "untrained": 0.2}),
        write_run(tmp_path / "c", methods.MocoConfig(), {**knn, "accuracy": 0.5, "untrained": 0.1}),
    ]


def test_untrained_networks_and_chance_are_rows(scored: list[Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", *map(str, scored), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["row"] for row in rows] == ["byol", "moco", "untrained", "chance"]
    untrained, chance = rows[2:]
    assert (untrained["kNN"], untrained["kNN n"]) == ("15.0000", "2")  # the same network of seed 0 counts once
    assert (untrained["mAP"], untrained["rank-1"], untrained["rank-5"]) == ("11.0000", "12.0000", "")
    assert (chance["kNN"], chance["mAP"], chance["rank-1"]) == ("5.0000", "4.0000", "")


def test_untrained_networks_of_other_sizes_are_other_rows(scored: list[Path], tmp_path: Path):
    wide = methods.ByolConfig(model=common.Model(width=32))
    run = write_run(tmp_path / "wide", wide, {**KNN, "accuracy": 0.5, "untrained": 0.3})
    groups, _ = compare.compare([*scored, run])
    assert list(compare.untrained(groups)) == ["model.width 64", "model.width 32"]


def test_untrained_figures_of_another_feature_are_another_row(scored: list[Path], tmp_path: Path):
    """LCR's feature is weighted by its attention, so that of its untrained network differs from MoCo's."""
    attended = write_run(tmp_path / "lcr", comparisons.LcrConfig(), {**KNN, "accuracy": 0.5, "untrained": 0.3})
    mean = comparisons.LcrConfig(attend=comparisons.AttendSettings(pool="mean"), seed=2)
    pooled = write_run(tmp_path / "mean", mean, {**KNN, "accuracy": 0.5, "untrained": 0.6})
    parts = write_run(tmp_path / "papn", papn.PapnConfig(), {**KNN, "accuracy": 0.5, "untrained": 0.4})
    groups, _ = compare.compare([*scored, attended, pooled, parts])
    found = {name: next(iter(figures.values())) for name, figures in compare.untrained(groups).items()}
    assert found == {"": [0.1, 0.2, 0.6], "attend.filters 32, attend.pool attend": [0.3], "papn.parts 5": [0.4]}


def test_given_weights_and_a_repeated_seed_count_once(tmp_path: Path):
    def runs(init: str | None, untrained: Sequence[float], seeds: Sequence[int]) -> list[float]:
        paths = [
            write_run(
                tmp_path / f"{init}{i}",
                methods.ByolConfig(init=init, seed=seed),
                {**KNN, "accuracy": 0.4, "untrained": u},
            )
            for i, (u, seed) in enumerate(zip(untrained, seeds))
        ]
        (figures,) = compare.untrained(compare.compare(paths)[0]).values()
        return next(iter(figures.values()))

    assert runs("imagenet", [0.6, 0.6, 0.6], [0, 1, 2]) == [0.6]
    assert runs(None, [0.1, 0.1001, 0.2], [0, 0, 1]) == [0.1, 0.2]


def test_seeds_are_rows_on_request(scored: list[Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", *map(str, scored), "--format", "csv", "--seeds"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["row"], row["kNN"]) for row in rows][1:3] == [("seed 0", "40.0000"), ("seed 1", "50.0000")]


def test_markdown_and_latex_hold_the_table(scored: list[Path], capsys: pytest.CaptureFixture[str]):
    labels = ["--labels", "BYOL | 50 %", "MoCo_2"]
    assert cli.main(["compare", *map(str, scored), "--format", "markdown", *labels]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| runs (%) | kNN | rank-1 | rank-5 | mAP |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    assert lines[2] == r"| BYOL \| 50 % | 45.0 ± 63.5 | 30.0 (1 of 2) | 60.0 (1 of 2) | 20.0 (1 of 2) |"
    assert cli.main(["compare", *map(str, scored), "--format", "latex", *labels]) == 0
    text = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("% ")]
    assert text == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r" & kNN & rank-1 & rank-5 & mAP \\",
        r"\midrule",
        r"BYOL | 50 \% & $45.0 \pm 63.5$ & $30.0$ (1 of 2) & $60.0$ (1 of 2) & $20.0$ (1 of 2) \\",
        r"MoCo\_2 & $50.0$ &  &  &  \\",
        r"\midrule",
        r"untrained & $15.0 \pm 63.5$ & $12.0$ &  & $11.0$ \\",
        r"chance & $5.0$ &  &  & $4.0$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_json_holds_means_intervals_and_values(scored: list[Path], runs: list[Path], capsys):
    assert cli.main(["compare", *map(str, runs), "--format", "json"]) == 0
    byol, cvsa = json.loads(capsys.readouterr().out)["groups"]
    assert byol["settings"] == {"method": "byol", "epochs": 400}
    assert byol["results"][0]["mean"] == pytest.approx(0.45)
    assert byol["results"][0]["interval_half"] == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert byol["results"][0]["values"] == [0.4, 0.5]
    assert cvsa["results"][0]["interval_half"] is None
    assert cli.main(["compare", *map(str, scored), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["untrained"][0]["results"][0]["values"] == [0.1, 0.2]
    assert document["chance"][0]["mean"] == 0.05


def test_folders_that_cannot_be_compared_are_named(runs: list[Path], tmp_path: Path):
    groups, (fault,) = compare.compare([runs[0], tmp_path])
    assert [run.path for group in groups for run in group.runs] == [runs[0]]
    assert f"{tmp_path} " in fault
    assert "config.json" in fault
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
    assert cli.main(["compare", *map(str, runs), "--format", "json"]) == 2
    assert [len(group["runs"]) for group in json.loads(capsys.readouterr().out)["groups"]] == [1, 1]


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
    assert printed.count(name) == 2  # the runs of each row, below the table
    assert cli.main(["compare", *map(str, runs), "--labels", name, f"{name}2"]) == 0
    assert capsys.readouterr().out.count(name) == 6  # twice in the table, and four times below it
