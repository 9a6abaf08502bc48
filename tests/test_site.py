"""The docs site: its pages are in the navigation, their commands have the flags they show, their Python blocks run."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from pages import DOCS, PAGES, python_block
from paths import ROOT, TOOLS

from fgtrain.settings.recipes import RECIPES


@functools.cache
def hooks():
    """tools/site.py as a module."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install mkdocs-material")
    spec = importlib.util.spec_from_file_location("site_hooks", TOOLS / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def help_of(program: str, *words: str) -> str:
    return hooks().help_of(program, list(words))


def commands(page: Path) -> list[list[str]]:
    """The commands of ours in the indented blocks of a page, without comments, lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    lines = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    found = [re.sub(r"^\s+(torchrun .*-m )?", "", line) for line in lines]
    return [shlex.split(line) for line in found if re.match("(fgdata|fgtrain) (?!--)", line)]


GUIDES = [page for page in PAGES if commands(page) and page.name != "extending.md"]
"""test_extending.py runs the commands of that page."""


def test_the_navigation_lists_pages_that_exist_once():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"[\w-]+\.md$", text.partition("\nnav:")[2], re.MULTILINE)
    generated = {*hooks().PAGES.values(), "reference.md", "commands-fgdata.md", "commands-fgtrain.md"}
    assert len(listed) == len({*listed})
    assert {*listed} - generated <= {path.name for path in DOCS.glob("*.md")}
    assert generated <= {*listed}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_flags_of_a_command_exist(page: Path):
    for program, name, *rest in commands(page):
        words = [name, rest[0]] if (program, name) in (("fgtrain", "run"), ("fgtrain", "eval")) else [name]
        if (program, name) == ("fgtrain", "show"):
            words = [name, rest[0]]
        if words[0] == "run":
            assert words[1] in RECIPES, f"{page.name} runs {words[1]}"
            words[1] = RECIPES[words[1]]().method if words[1] not in ("cvsa", "byol") else words[1]
        text = help_of(program, *words)
        flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
        missing = [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", text)]
        assert not missing, f"{page.name}: {program} {' '.join(words)} has no {' '.join(missing)}"


def test_the_boxes_of_the_guide_are_read_without_fgdata(drawn_set: Path):
    block = python_block(DOCS / "guides.md", "tarfile")
    names: dict = {}
    code = block.replace("shards/boxes", str(drawn_set)).replace(".rbd.npy", ".gt.npy")
    exec(compile(code, "docs/guides.md", "exec"), names)
    import fgdata

    reader = fgdata.ShardSet.open(drawn_set).split("train")
    assert len(names["boxes"]) == len(reader)
    for number in range(len(reader)):
        sample = reader.read(number)
        left, top, width, height = fgdata.box(sample, "gt")
        about = fgdata.meta(sample)
        size = about["width"], about["height"]
        expected = (left * size[0], top * size[1], width * size[0], height * size[1])
        assert names["boxes"][about["file"]] == pytest.approx(expected, rel=1e-6)


def test_start_shows_the_commands_of_the_demo():
    page, demo = (DOCS / "start.md").read_text("utf-8"), (TOOLS / "demo.py").read_text("utf-8")
    for words in ("fgdata build-shards --dataset drawn --images-per-class 90 --size 192 --saliency rbd gt --out ",):
        assert words in page
        assert words in demo
    assert "fgtrain run demo --data.shards" in page
    assert "fgtrain run demo --data.shards" in demo


def test_links_to_other_files_become_pages_or_paths():
    class Page:
        class file:
            src_uri = "training.md"

    text = "[a](../shards/FORMAT.md#x) [losses.py](../fgtrain/objectives/losses.py) [b](networks.md) [c](../gone.md)"
    assert hooks().on_page_markdown(text, Page) == (
        "[a](format.md#x) `fgtrain/objectives/losses.py` [b](networks.md) [c](../gone.md)"
    )
    Page.file.src_uri = "index.md"  # the README
    assert hooks().on_page_markdown("[a](docs/api.md#b) ![c](docs/views.png)", Page) == "[a](api.md#b) ![c](views.png)"
    assert "<math" in hooks().on_page_markdown("$$a^2$$", Page)


def test_no_page_loads_anything_from_elsewhere():
    """Fonts and scripts: only what mkdocs-material brings."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "font: false" in text
    assert "http" not in text
