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
        ("--pair.tau 3", None),
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
    ("words", "what", "command"),
    [
        ("eval localization run --epochs 1", "--epochs, 1", "fgtrain eval localization"),
        ("run moco --moco.temperature 0", "--moco.temperature, 0", "fgtrain run moco"),
        ("run moco --epochs many", "Error parsing --epochs", "fgtrain run moco"),
        ("list --sizee 3", "--sizee, 3", "fgtrain list"),
        ("show views --sizee 3", "--size INT", "fgtrain show views"),
        ("eval knnn", "Available subcommands: all, knn", "fgtrain eval"),
        ("evaluate", "Available subcommands: run, eval", "fgtrain"),
        ("build-shards --dataset cub --saliencyy rbd", "--saliency ", "fgdata build-shards"),
        ("check shards/x --jobss 3", "--jobss, 3", "fgdata check"),
        ("rebox shards/x --tau many", "Error parsing --tau", "fgdata rebox"),
        ("box", "Available subcommands: build-shards", "fgdata"),
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
