"""Values that do not suit an option are reported in words, for every kind of number in both programs."""

import re

import pytest

from fgdata import cli as fgdata_cli
from fgdata.commandline.options import describe
from fgtrain import cli as fgtrain_cli

COMMANDS = {
    "build-shards": (fgdata_cli, ["build-shards"]),
    "rebox": (fgdata_cli, ["rebox", "set"]),
    "coreset": (fgdata_cli, ["coreset", "a", "b", "--encoder", "c", "--out", "d", "--budget", "1"]),
    "show": (fgdata_cli, ["show", "set"]),
    "run": (fgtrain_cli, ["run", "cvsa"]),
    "eval": (fgtrain_cli, ["eval", "knn", "run"]),
}


def printed(capsys: pytest.CaptureFixture[str], module, words: list[str]) -> tuple[int, str]:
    try:
        code = module.main(words)
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, " ".join(re.sub("[│╭╮╰╯─]", " ", captured.out + captured.err).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_of_every_kind_is_named_in_words(name: str, capsys: pytest.CaptureFixture[str]):
    module, words = COMMANDS[name]
    _, text = printed(capsys, module, [*words, "--help"])
    options = re.findall(r"(--[a-z.-]+) ((?:\{None\}\|)?(?:INT|FLOAT)(?:\|\{own\})?) (?!INT|FLOAT)", text)
    assert options
    for flag, metavar in sorted({metavar: (flag, metavar) for flag, metavar in options}.values()):
        code, text = printed(capsys, module, [*words, flag, "1.5x"])
        wanted = describe(metavar.removeprefix("{None}|"))
        assert (code, f"Error parsing {flag}: '1.5x' is not {wanted} " in text) == (2, True), text
        assert not re.search("NoneType|<class|literal|choices", text)


def test_metavars_in_words():
    assert describe("INT") == "a whole number"
    assert describe("FLOAT|{own}") == "a number or own"


def test_none_and_numbers_are_read(capsys: pytest.CaptureFixture[str]):
    code, text = printed(capsys, fgdata_cli, ["build-shards", "--classes", "None", "--tau", "-1"])
    assert (code, "objective tau is -1.0" in text) == (2, True)
