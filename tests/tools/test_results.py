"""tools/results.py: the committed pages are what it makes, and its figures are those of SciPy."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT, TOOLS
from PIL import Image
from scipy import stats

from fgdata.errors import InputError
from fgtrain.studies import declaration, record
from fgtrain.studies.record import Record

sys.path.insert(0, str(TOOLS))
import results
import results_figure
import results_page

sys.path.remove(str(TOOLS))

STUDY = """
title = "Does it help?"
base = "start | as it is"
seeds = [0, 1, 2]
[[columns]]
name = "kNN"
evaluation = "knn"
sets = ["cub"]
[[columns]]
evaluation = "retrieval"
figure = "rank1"
sets = ["cub"]
[[rows]]
name = "start | as it is"
start = "/home/someone/weights.pth"
[[rows]]
name = "better"
recipe = "byol"
settings = { decoder = "/home/someone/decoder.pt" }
[[rows]]
name = "same"
recipe = "moco"
[[rows]]
name = "absent"
missing = "no recipe"
"""
KNN = {"better": (0.655, 0.675, 0.68), "same": (0.58, 0.63, 0.61)}
START = 0.6
FACTS = {"step": 9, "commit": "c0ffee" * 6, "versions": {"fgtrain": "0.1.0", "torch": "2.11"}, "device": "cpu"}


def made_up(seeds=(0, 1, 2), rows=("better", "same")) -> Record:
    """kNN of some seeds and rows; rank-1 is not measured."""
    study = replace(declaration.parse(STUDY, "help", "help.toml"), sets={}, seeds=seeds)
    study = replace(study, rows=tuple(row for row in study.rows if row.name in (study.base, "absent", *rows)))
    lines = [
        {"row": row, "seed": seed, "set": "cub", "evaluation": "knn", "settings": {"k": 20}, "figures": {"kNN": value}}
        for row in (study.base, *rows)
        for seed, value in zip(seeds, KNN[row] if row in KNN else [START] * len(seeds))
    ]
    machine = {"cpu": "a processor", "cores": 2}
    lines += [
        {"run": f"better-seed{s}", "seed": s, "evaluation": "training", "hours": 0.5, "machine": machine} for s in seeds
    ]
    command = "fgtrain study /home/someone/help.toml --init /home/someone/weights.pth"
    return Record(study, (command,), ("init /home/someone/weights.pth",), (), (), tuple(line | FACTS for line in lines))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a README, and the made-up study in a folder of its own."""
    (tmp_path / "README.md").write_text("# Ours\n\n<!-- tools/results.py -->\nold\n<!-- end -->\n\nText.\n")
    record.write(made_up(), tmp_path / "study")
    return tmp_path


def written(project: Path) -> dict[str, str]:
    return {path.name: content.decode() for path, content in results.generate(project).items()}


def test_the_committed_pages_are_the_generated_ones():
    for path, content in results.generate(ROOT).items():
        assert path.read_bytes() == content, f"{path.name} is not that of the results: run python tools/results.py"
    assert (ROOT / "docs" / "results.svg").exists() == ("results.svg" in written(ROOT))


def test_without_results_there_is_no_figure(project: Path):
    files = written(project)
    assert files.keys() == {"RESULTS.md", "README.md"}
    assert files["README.md"] == "# Ours\n\n<!-- tools/results.py -->\n<!-- end -->\n\nText.\n"
    assert "python tools/results.py add" in files["RESULTS.md"]


def test_means_and_differences_have_the_intervals_of_scipy(project: Path):
    results.add(project / "study", project)
    page = written(project)["RESULTS.md"]
    for row, values in KNN.items():
        found = 100 * np.array(values)
        low, high = stats.t.interval(0.95, len(found) - 1, found.mean(), stats.sem(found))
        gap = stats.ttest_rel(found, 100 * np.full(3, START)).confidence_interval(0.95)
        star = " \\*" if gap.low > 0 or gap.high < 0 else ""
        mean, difference = f"{found.mean():.1f} ± {(high - low) / 2:.1f}", f"{found.mean() - 100 * START:+.1f}"
        difference += f" ± {(gap.high - gap.low) / 2:.1f}"
        assert f"| {row} | {mean} | {difference}{star} |" in page
        title = "Significant differences" if star else "No significant difference"
        assert f"* kNN: {row} {difference}\n" in page.partition(f"### {title}\n")[2].partition("###")[0] + "\n"
    assert "The intervals of 1 of 2 differences exclude zero" in page
    assert (
        "Not measured yet, 9 of 18 results: start | as it is (rank-1); better (rank-1); same (rank-1)."
        in page.replace("\\", "")
    )
    assert "absent: not run: no recipe" in page
    assert "3 training runs, 1.5 hours" in page
    assert "2 cores of a processor, no GPU" in page
    assert "fgtrain 0.1.0, torch 2.11; commits c0ffeec" in page


def test_the_page_on_training_has_the_measured_rows_by_their_first_column(project: Path, monkeypatch):
    monkeypatch.setattr(results, "ALIKE", ("help",))
    (project / "docs").mkdir()
    (project / "docs" / "training.md").write_text("Rows:\n\n<!-- tools/results.py -->\n<!-- end -->\n\nText.\n")
    assert written(project)["training.md"] == "Rows:\n\n<!-- tools/results.py -->\n<!-- end -->\n\nText.\n"
    results.add(project / "study", project)
    lines = written(project)["training.md"].splitlines()[3:8]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert rows[0] == ["system", "seeds", "kNN", "to its base", "rank-1"]
    assert [row[0] for row in rows[2:]] == ["better", "same", r"start \| as it is"]
    assert rows[4][1:] == ["", "60.0", "", ""]
    better = 100 * np.array(KNN["better"])
    half = stats.t.ppf(0.975, 2) * stats.sem(better)
    gap = f"+{better.mean() - 100 * START:.1f} ± {half:.1f} to start \\| as it is"
    assert rows[2][1:] == ["3", f"{better.mean():.1f} ± {half:.1f}", gap, ""]


def test_costs_are_in_the_table_and_no_evidence():
    """Hours and parameters are no figures of merit, and parameters differ without any noise."""
    whole = record.table(made_up())
    cost = replace(whole.columns[0], name="parameters", evaluation="cost", figure="parameters")
    lines = tuple(replace(line, cells=(line.cells[0], *line.cells)) for line in whole.lines)
    with_cost = replace(whole, columns=(cost, *whole.columns), lines=lines)
    assert results_page.evidence(with_cost) == results_page.evidence(whole) != []


def test_the_readme_shows_the_figure_with_its_command(project: Path):
    results.add(project / "study", project)
    files = written(project)
    drawn = files["results.svg"]
    assert drawn.count("<circle") == 2
    assert "+0<" not in drawn, "the base row is the label of zero"
    assert drawn.count('stroke-width="2.5"') == 2, "an interval each"
    assert drawn.count(results_figure.BETTER) == drawn.count(results_figure.NOISE) == 3
    assert "![Does it help?](docs/results.svg)" in files["README.md"]
    assert "[RESULTS.md](RESULTS.md)" in files["README.md"]
    assert "    fgtrain study help.toml --init weights.pth\n" in files["RESULTS.md"]
    assert files["README.md"].endswith("<!-- end -->\n\nText.\n")


def test_pictures_are_kept_only_if_asked_for_and_are_in_the_page(project: Path):
    study = project / "study"
    with pytest.raises(InputError, match="has no pictures.*--pictures"):
        results.add(study, project, pictures=True)
    assert not (project / "docs").exists()
    (study / "pictures").mkdir()
    for name, colour in {"gradcam-1": "red", "pairs-both": "blue"}.items():
        Image.new("RGB", (40, 30), colour).save(study / "pictures" / f"{name}.png")
    kept = results.add(study, project) / "pictures"
    assert not kept.exists()
    assert "Pictures" not in written(project)["RESULTS.md"]
    results.add(study, project, pictures=True)
    page = written(project)["RESULTS.md"].partition("### Pictures")[2]
    for name, words in {"gradcam-1": "Grad-CAM of the same", "pairs-both": "Synthesized pairs"}.items():
        before, found, _ = page.partition(f"![{name}]({kept.relative_to(project).as_posix()}/{name}.jpg)")
        assert found
        assert words in before.rpartition("###")[2]
    with Image.open(kept / "pairs-both.jpg") as kept_one:
        assert (kept_one.format, kept_one.size) == ("JPEG", (40, 30))
        np.testing.assert_allclose(np.asarray(kept_one)[0, 0], (0, 0, 255), atol=3)
    (study / "pictures" / "pairs-both.png").unlink()
    results.add(study, project, pictures=True)
    assert [file.name for file in kept.iterdir()] == ["gradcam-1.jpg"]


def test_no_folder_of_the_machine_is_kept(project: Path):
    folder = results.add(project / "study", project)
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "/home" not in text
    assert "someone" not in text
    assert record.read(folder).study.rows[0].start == "weights.pth"


def test_parts_of_a_study_are_merged_and_nothing_counts_twice(project: Path):
    for number, part in enumerate((made_up((0, 1, 2), ("better",)), made_up((0, 1, 2), ("same",)), made_up())):
        record.write(part, project / str(number))
        folder = results.add(project / str(number), project)
        results.add(project / str(number), project)
    results.add(project / "study", project)
    whole = results.cleaned(made_up())
    assert {record.key_of(line) for line in record.read(folder).results} == {record.key_of(x) for x in whole.results}
    assert record.values_of(record.read(folder)) == record.values_of(whole)
    assert sorted(row.name for row in record.read(folder).study.rows) == sorted(row.name for row in whole.study.rows)
    before = (folder / "results.jsonl").read_bytes()  # pyright: ignore
    other = replace(made_up(), changed=("epochs 3",))
    record.write(other, project / "other")
    with pytest.raises(InputError, match=r"other settings \(init weights.pth\).*epochs 3.*--name"):
        results.add(project / "other", project)
    assert (folder / "results.jsonl").read_bytes() == before  # pyright: ignore
    assert results.add(project / "other", project, "help-short").name == "help-short"
    page = written(project)["RESULTS.md"]
    assert re.findall("^## .*", page, re.M) == ["## Does it help?", "## Does it help? (help-short)"]


def test_kept_rows_of_a_built_in_study_are_in_its_order():
    kept = {name: of for name, of in results.kept(ROOT).items() if name in declaration.names()}
    assert kept
    for name, of in kept.items():
        found = [row.name for row in of.study.rows]
        assert found == [row.name for row in declaration.load(name).rows if row.name in found]


def test_more_seeds_add_to_the_others(project: Path):
    results.add(project / "study", project)
    record.write(made_up((3, 4, 5)), project / "more")
    folder = results.add(project / "more", project)
    assert record.read(folder).study.seeds == (0, 1, 2, 3, 4, 5)
    found = [100 * value for value in KNN["better"]] * 2
    low, high = stats.t.interval(0.95, 5, np.mean(found), stats.sem(found))
    assert f"| better | {np.mean(found):.1f} ± {(high - low) / 2:.1f} |" in written(project)["RESULTS.md"]


def test_a_row_has_results_of_one_shard_set_only(project: Path):
    def measured_on(digest: str, seeds: tuple[int, ...], rows=("better", "same")) -> Path:
        of = made_up(seeds, rows)
        record.write(replace(of, results=tuple(line | {"digest": digest * 64} for line in of.results)), project / "of")
        return project / "of"

    folder = results.add(measured_on("a", (0, 1, 2)), project)
    before = (folder / "results.jsonl").read_bytes()
    words = r"row 'better' .* named cub \(digest b{12}, seeds 0 1; digest a{12}, seeds 2\).*--name"
    with pytest.raises(InputError, match=words):
        results.add(measured_on("b", (0, 1)), project)
    assert (folder / "results.jsonl").read_bytes() == before
    results.add(measured_on("b", (0, 1, 2), ("better",)), project)  # replaces all results of two rows
    found = {(line["row"], line["digest"][0]) for line in record.read(folder).results if "row" in line}
    assert found == {("start | as it is", "b"), ("better", "b"), ("same", "a")}
    assert results.add(measured_on("c", (0, 1)), project, "other-set").name == "other-set"


def test_a_folder_that_is_no_study_is_refused(project: Path):
    with pytest.raises(InputError, match=r"has no study.json.*--tables"):
        results.add(project, project)
    (project / "study" / "results.jsonl").write_text(
        (project / "study" / "results.jsonl").read_text().replace("0.6", "0.7")
    )
    with pytest.raises(InputError, match="does not match its checksum"):
        results.add(project / "study", project)
    whole = json.loads((project / "study" / "study.json").read_text())
    lists = {"commands": [], "changed": [], "scope": [], "notes": []}
    for damage, why in (
        ({"study": 3}, "is not what `fgtrain study` writes"),
        ({"study": {"columns": [], "rows": 1, "seeds": []}}, "is not what `fgtrain study` writes"),
        ({"study": {"columns": [], "rows": [], "seeds": []}, **lists}, "study.json: name is None; expected str"),
        ({**whole, "study": {**whole["study"], "seeds": [0, "1"]}}, "study.json: seeds is '1'; expected int"),
        ({**whole, "study": {**whole["study"], "stages": []}}, r"stages is \[\]; expected a table"),
        ({**whole, "notes": [3]}, "study.json: notes is 3; expected str"),
    ):
        (project / "study" / "study.json").write_text(json.dumps(damage))
        with pytest.raises(InputError, match=why):
            results.add(project / "study", project)


@pytest.mark.parametrize("name", ["../../out", "/out", "a/b", "..", ".", " ", "a\\b"])
def test_results_are_kept_in_docs_studies_only(name: str, project: Path):
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        results.add(project / "study", project, name)
    of = made_up()
    record.write(replace(of, study=replace(of.study, name=name)), project / "study")
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        results.add(project / "study", project)
    assert not (project / "docs").exists()


def test_a_study_without_results_is_not_kept(project: Path):
    (project / "study" / "results.jsonl").unlink()
    with pytest.raises(InputError, match="has no results"):
        results.add(project / "study", project)
