"""Every `pip install NAME` in a message or on a page names a dependency of ours, or the checkout.

`fgdata` on the package index is another project, and `fgtrain` has no release yet: neither may be named.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "shards" / "FORMAT.md"]
SOURCES = [path for package in ("fgdata", "fgtrain", "tools") for path in (ROOT / package).rglob("*.py")]
PEERS = ("kornia", "pillow-simd")
"""What docs/views.md offers to install for a comparison; nothing of ours needs it."""


def dependencies() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    return {re.split(r"[\[<>=!~; ]", line)[0] for group in (PROJECT["dependencies"], *extras) for line in group}


def texts(path: Path) -> Iterator[str]:
    """A page; or the strings of a source file, with {} for what an f-string inserts."""
    content = path.read_text("utf-8")
    if path.suffix != ".py":
        yield content
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)  # pyright: ignore


def hints(text: str) -> Iterator[str]:
    """What each `pip install` in a text installs first."""
    for words in re.findall(r"pip install((?:[ \n]+\S+)+)", text):
        named = [word.strip("'\"`").rstrip("'\"`,.;:)") or "." for word in words.split() if not word.startswith("-")]
        yield named[0]


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_install_hints_name_a_dependency_or_the_checkout(path: Path):
    allowed = {*dependencies(), *PEERS, "."}
    for text in texts(path):
        for name in hints(text):
            # {} is the module that is missing, of a list in which modules and distributions have the same names.
            assert re.sub(r"^\.\[.*", ".", name) in {*allowed, "{}"}, f"{path.name} says: pip install {name}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pip install 'fgdata[train]'", ["fgdata[train]"]),
        ("needs it: pip install fgtrain", ["fgtrain"]),
        ("(`pip install matplotlib`) and pip\ninstall x", ["matplotlib"]),
        ("    pip install '.[dali,train]'  # or", [".[dali,train]"]),
        ("pip install -U --quiet pillow-simd", ["pillow-simd"]),
    ],
)
def test_hints_are_found(text: str, names: list[str]):
    assert list(hints(text)) == names


def test_the_distribution_has_a_name_of_ours_and_both_commands():
    assert PROJECT["name"] == "fgtrain"
    assert PROJECT["scripts"] == {name: f"{name}.__main__:main" for name in ("fgdata", "fgtrain")}
