"""The public surface: names shown in README and docs are importable and in `__all__`; links on pages resolve."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from pages import PAGES, python_blocks
from paths import ROOT

LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
PACKAGES = ("fgdata", "fgtrain")


def shown_names(page: Path) -> set[tuple[str, str]]:
    """(module, name) of every name of our packages used in the page's Python blocks."""
    names = set()
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PACKAGES:
                names.add((node.value.id, node.attr))
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                names |= {(str(node.module), alias.name) for alias in node.names}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_on_a_page_are_public(page: Path):
    for module, name in shown_names(page):
        imported = importlib.import_module(module)
        assert name in imported.__all__, f"{page.name} shows {module}.{name}, which is not in its __all__"
        assert getattr(imported, name) is not None


def test_public_names_exist_and_are_shown():
    fgdata = importlib.import_module("fgdata")
    assert sorted(fgdata.__all__) == sorted(name for name in dir(fgdata) if name in fgdata.__all__)
    shown = set().union(*map(shown_names, PAGES))
    assert {("fgdata", name) for name in fgdata.__all__} <= shown
    assert ("fgdata", "load") in shown  # the pages were read


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_resolve(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing, f"{page.name} links to files that do not exist: {', '.join(missing)}"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_paths_on_a_page_exist(page: Path):
    """Paths such as `fgdata/views/spec.py`, written from the root of the repository."""
    paths = re.findall(r"\b((?:fgdata|fgtrain|tests|tools|docs)/[\w/-]+\.(?:py|md))\b", page.read_text("utf-8"))
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert not missing, f"{page.name} names files that do not exist: {', '.join(missing)}"
