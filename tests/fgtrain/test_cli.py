"""The command line: flags that are in another group."""

import pytest

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
