"""The command line: an error suggests flags and help of the command in use."""

import re

import pytest

from fgdata.cli import main as fgdata_main
from fgtrain.cli import check_flags, main


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--optim.epochs 3", "--epochs"),
        ("--optim.epochs=3", "--epochs"),
        ("--lr 3", "--optim.lr"),
        ("--batch_size 4", "--data.batch-size"),
        ("--machine.out x", "--out"),
        ("--data.no-resume", None),
        ("--pair.tauu 3", None),
        ("--simclr.dim 3", "--byol.dim"),
        ("--optim.lrr 3", None),
        ("--epochs -1 --no-compile", None),
    ],
)
def test_a_flag_of_another_group_is_named(words: str, meant: str | None, capsys: pytest.CaptureFixture):
    arguments = ["run", "byol", *words.split()]
    if meant is None:
        check_flags(arguments, "byol")  # what tyro answers takes seconds
        return
    assert main(arguments) == 2
    assert f"Did you mean {meant}? All flags: fgtrain run byol --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "owners"),
    [
        ("--align.weight 3", ", which is a flag of cvsa. All"),
        ("--moco.no-symmetric", ", which is a flag of moco, cvsa, "),
        ("--pair.tau 3", ", which is a flag of synth-pair. All"),
        ("--simclr.dim=3", ", which is a flag of simclr. Did you mean --byol.dim? All"),
    ],
)
def test_a_flag_of_other_methods_names_them(words: str, owners: str, capsys: pytest.CaptureFixture):
    assert main(["run", "byol", *words.split()]) == 2
    assert f"byol has no flag {words.partition('=')[0].split()[0]}{owners}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what", "command"),
    [
        ("eval localization run --epochs 1", "--epochs, 1", "fgtrain eval localization"),
        ("run moco --moco.temperature 0", "--moco.temperature, 0", "fgtrain run moco"),
        ("run moco --epochs many", "Error parsing --epochs", "fgtrain run moco"),
        ("list --sizee 3", "--sizee, 3", "fgtrain list"),
        ("show views --sizee 3", "--size INT", "fgtrain show views"),
        ("build-shards --dataset cub --saliencyy rbd", "--saliency ", "fgdata build-shards"),
        ("check shards/x --jobss 3", "--jobss, 3", "fgdata check"),
        ("rebox shards/x --tau many", "Error parsing --tau", "fgdata rebox"),
    ],
)
def test_an_error_is_about_the_command_in_use(words: str, what: str, command: str, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    program = {"fgtrain": main, "fgdata": fgdata_main}[command.split()[0]]
    with pytest.raises(SystemExit) as ended:
        program(words.split())
    printed = "".join(capfd.readouterr())
    assert ended.value.code == 2
    assert what in printed
    assert re.findall(r"fg\w+ [\w -]*--help", printed) == [f"{command} --help"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("rum cvsa", "'rum' is not a command of fgtrain. Did you mean run? Allowed: run, eval, "),
        ("eval kn runs/a", "'kn' is not a command of fgtrain eval. Did you mean knn? Allowed: all, knn, "),
        ("eval runs/a", "'runs/a' is not a command of fgtrain eval. Allowed: all, knn, "),
        ("show view", "'view' is not a command of fgtrain show. Did you mean views? Allowed: views, "),
        ("buildshards", "'buildshards' is not a command of fgdata. Did you mean build-shards? Allowed: build-shards, "),
    ],
)
def test_a_mistyped_command_is_suggested(words: str, error: str, capsys: pytest.CaptureFixture):
    program = fgdata_main if "fgdata" in error else main
    assert program(words.split()) == 2
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.rstrip().endswith(f" Help: {error.split(' of ')[1].split('.')[0]} --help")
