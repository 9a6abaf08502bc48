"""Help is made of paragraphs at any width."""

import re
import textwrap
from itertools import pairwise

import pytest

from fgdata.cli import main as fgdata_main
from fgdata.commandline import join_lines, wrap
from fgtrain.cli import main as fgtrain_main

PAGES = [
    *(("fgdata", words) for words in ("", "build-shards", "rebox", "add", "check", "score", "show", "list")),
    *(("fgtrain", words) for words in ("", "run", "run cvsa", "run synth-pair", "eval", "eval linear", "compare")),
    *(("fgtrain", words) for words in ("show gradcam", "show views", "export")),
]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(("program", "words"), PAGES)
def test_no_line_is_too_long_or_broken_early(program: str, words: str, columns: int, monkeypatch, capsys):
    """A line of a paragraph is not followed by a word that would have fitted on it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        {"fgdata": fgdata_main, "fgtrain": fgtrain_main}[program]([*words.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    text = [line.strip("│") for line in lines]
    for above, below in pairwise(text):
        indent = len(below) - len(below.lstrip())
        same = above[: indent - 1].strip() == below[: indent - 1].strip() == "" or not indent
        prose = re.match(r"[a-z(]", below.strip()) and above.strip() and indent != 2  # usage is indented by 2
        if same and prose and "[-h]" not in above and len(above) - len(above.lstrip()) == indent:
            room = len(above) - 1 if lines[0].startswith("│") or "│" in lines[text.index(above)] else columns
            assert len(above.rstrip()) + 1 + len(below.split()[0]) > room - 1, (above, below)


@pytest.mark.parametrize(("program", "words"), [*PAGES, ("fgtrain", "study drawn-birds"), ("fgtrain", "eval all")])
def test_a_default_is_stated_once(program: str, words: str, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        {"fgdata": fgdata_main, "fgtrain": fgtrain_main}[program]([*words.split(), "--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "(default: )" not in text
    assert not re.search(r"Default: [^-]*?\(default: ", text)
    if words == "run cvsa":
        assert "Run directory. Default: runs/<name>. --resume" in text
        assert "environment variables. (default: none)" in text
        assert "that the alignment loss is added to. (default: byol)" in text


def test_paragraphs_are_joined_and_lists_are_kept():
    text = "One\n    two (a\n    --b).\n\n    Three\n    * four\n    five\n    * six\n"
    assert join_lines(text) == "One two (a --b).\n\nThree\n* four five\n* six"


def test_wrap_leaves_boxes_and_short_lines_alone():
    long = "word " * 30
    assert wrap(f"│ {long}", 40) == f"│ {long}"
    assert wrap("short\n\nline", 40) == "short\n\nline"
    assert wrap(long.strip(), 40) == textwrap.fill(long, 40)
    assert wrap("usage: x [-h] {aaaa,bbbb,cccc}", 20) == "usage: x [-h] {aaaa,\n  bbbb, cccc}"
