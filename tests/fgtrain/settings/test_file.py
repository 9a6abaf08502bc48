"""Settings as a YAML file, and a run's settings as the command that makes it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgtrain import cli
from fgtrain.engine import lifecycle
from fgtrain.runs.rundir import RunDir
from fgtrain.settings import common, recipes
from fgtrain.settings.file import merge, relevant


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list:
    """The settings that `fgtrain run` would train with."""
    seen: list = []
    monkeypatch.setattr(lifecycle, "train", lambda config, name, signals: seen.append((name, config)))
    return seen


def test_a_yaml_file_needs_only_what_differs(tmp_path: Path, parsed: list):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "epochs: 7\noptim:\n  lr: 1e-3  # YAML 1.1 takes this for text\nviews.crop: inside-box\ninit: null\n"
    )
    assert cli.main(["run", "cvsa", "--config", str(file), "--optim.momentum", "0.5"]) == 0
    expected = recipes.RECIPES["cvsa"]()
    optim = replace(expected.optim, lr=1e-3, momentum=0.5)
    expected = replace(expected, epochs=7, optim=optim, views=replace(expected.views, crop="inside-box"))
    ((_, config),) = parsed
    assert relevant(config) == relevant(expected)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("epochs: [1", "is not valid YAML: while parsing a flow sequence"),
        ("- a\n- b", "holds no settings; write NAME: VALUE lines, such as epochs: 100."),
        ("epoch: 3", "has the unknown setting 'epoch'; allowed: "),
        ("epochs: many", "epochs is 'many'; expected int."),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML: could not determine a constructor for the tag"),
        ("a: &a [x]\nepochs: [*a, *a]", "is not valid YAML: aliases (*NAME) are not allowed; write the value again."),
        (" " * (1 << 20) + "epochs: 3", "has 1,048,585 bytes; the largest size allowed is 1,048,576."),
        ("method: moco", "is for the method moco, not cvsa. Run: fgtrain run moco --config"),
    ],
)
def test_a_yaml_file_that_cannot_be_used(content: str, error: str, tmp_path: Path, parsed: list, capsys):
    (tmp_path / "a.yml").write_text(content)
    assert cli.main(["run", "cvsa", "--config", str(tmp_path / "a.yml")]) == 2
    assert error in " ".join(capsys.readouterr().err.split())


def test_missing_pyyaml_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "a.yaml").write_text("epochs: 3")
    assert cli.main(["run", "cvsa", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "pip install pyyaml" in capsys.readouterr().err


def test_merge_changes_only_what_is_named():
    values = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merge(values, {"a.c.d": 4, "f": 5}) == {"a": {"b": 1, "c": {"d": 4}}, "e": 3, "f": 5}
    assert values["a"]["c"]["d"] == 2


@pytest.mark.parametrize("name", ["cvsa", "synth-pair", "dino", "byol-imagenet"])
def test_the_command_of_a_run_has_its_settings(name: str, tmp_path: Path, parsed: list, capsys):
    config = recipes.RECIPES[name]()
    changes = {"epochs": 3, "seed": 5, "init": "some 'file'.pth", "sync_norm": not config.sync_norm}
    optim = replace(config.optim, lr=0.125, nesterov=False, weight_decay_end=None, exclude_norm_and_bias=True)
    data = common.Data(Path("elsewhere"), batch_size=64, backgrounds=(Path("a b"), Path("c")))
    views = replace(config.views, matte=0.75)
    config = replace(config, **changes, optim=optim, data=data, views=views)
    path = tmp_path / "the run"
    with RunDir.claim(path, config) as run:
        run.start(config)
        run.note(name=name, shards={"path": "/sets/my cub", "digest": "0"})
    assert cli.main(["list", str(path), "--command"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["fgtrain", "run", name]
    assert cli.main(words[1:]) == 0
    ((_, again),) = parsed
    assert relevant(again) == relevant(config)
    assert (again.data.shards, again.machine.out) == (Path("/sets/my cub"), Path(f"{path}-2"))


@pytest.mark.parametrize(
    ("facts", "start"),
    [
        ({}, "fgtrain"),
        ({"processes": 8}, "torchrun --nproc-per-node 8 -m fgtrain"),  # of a version that did not record nodes
        ({"processes": 8, "nodes": 1}, "torchrun --nproc-per-node 8 -m fgtrain"),
        (
            {"processes": 8, "nodes": 2},
            "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4 -m fgtrain",
        ),
    ],
)
def test_the_command_of_a_training_on_several_gpus(facts: dict, start: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = recipes.RECIPES["byol"]()
    with RunDir.claim(Path("runs/a"), config) as run:
        run.start(config)
        run.note(name="byol", **facts)
    assert cli.main(["list", "--command"]) == 0
    assert capsys.readouterr().out == f"{start} run byol --out runs/a-2\n"
    assert cli.main(["run", "cvsa", "--out", "runs/a", "--resume"]) == 2
    assert f"Resume it: {start} run byol --out runs/a --resume" in capsys.readouterr().err
    other = replace(config, machine=replace(config.machine, resume=True), seed=7)
    with pytest.raises(
        InputError, match=f"\n  {start} run byol --out runs/a --resume\n.*\n  {start} run byol --config"
    ):
        RunDir(Path("runs/a"))._check(other)
    for flags in ([], ["--command"]):
        assert cli.main(["list", "runs", *flags]) == 2
        assert "runs is not a run directory" in capsys.readouterr().err


def test_named_runs_are_listed_without_the_recipes(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        with RunDir.claim(tmp_path / name, recipes.RECIPES["byol"]()) as run:
            run.start(recipes.RECIPES["byol"]())
    assert cli.main(["list", "b"]) == 0
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert rows == ["b"]
