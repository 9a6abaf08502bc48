"""The rooms of both packages (docs/architecture.md): who may import whom, and how."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

ROOMS = {
    "fgdata": (
        *(
            "cores",
            "compiled",
            "errors",
            "plugins",
            "commandline",
            "progress",
            "images",
            "files",
            "boxes",
            "stores",
            "shards",
            "datasets",
            "saliency",
            "views",
            "selection",
        ),
        *("building", "report", "sharing", "commands", "cli", "__main__"),
    ),
    "fgtrain": (
        *(
            "printing",
            "settings",
            "place",
            "parallel",
            "runs",
            "networks",
            "detectors",
            "features",
            "objectives",
            "evaluate",
            "show",
            "sharing",
            "engine",
            "studies",
            "extend",
        ),
        *("commands", "cli", "__main__"),
    ),
}
"""From the lowest up: a room imports only from itself and from rooms listed before it."""
LOWEST_OF_FGDATA = (
    "errors",
    "plugins",
    "commandline",
    "cores",
    "files",
    "images",
    "boxes",
    "stores",
    "shards",
    "views",
)
"""What fgtrain may import of fgdata."""
INTERFACES = {
    "fgtrain.detectors": "saliency",
    "fgtrain.features": "selection",
    "fgtrain.evaluate.embed": "datasets",
}
"""Modules of fgtrain that may import one more room of fgdata: the interface of a plug-in, the layouts of folders."""
MOST_AT_THE_ROOT = 7
FILES = sorted(path for package in ROOMS for path in (ROOT / package).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, everywhere: bool = True) -> Iterator[tuple[str, str, int]]:
    """(module, name, level as written) of every `from` import; without `everywhere`, of those run on import only."""
    name, tree = module(path), ast.parse(path.read_text("utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                yield target, alias.name, node.level


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: module(path))
def test_imports_point_down_are_relative_and_take_no_private_names(path: Path):
    own = module(path)
    package = own.partition(".")[0]
    for target, name, level in imports(path):
        top = target.partition(".")[0]
        if top not in ROOMS:
            continue
        assert not name.startswith("_") or name == "__version__", f"{own} imports the private name {target}.{name}"
        assert (level > 0) == (top == package), f"{own}: inside a package imports are relative, across absolute"
        used = room(f"{target}.{name}" if "." not in target else target)
        if top != package:
            allowed = used in LOWEST_OF_FGDATA or INTERFACES.get(own) == used
            assert (package, allowed) == ("fgtrain", True), f"{own} imports {target}"
        elif own != package and used in ROOMS[package]:
            order = ROOMS[package].index
            assert order(used) <= order(room(own)), f"{own} imports upward: {target}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_circle_among_modules(package: str):
    names = {module(path) for path in FILES}
    graph = {}
    for path in (path for path in FILES if module(path).startswith(package)):
        pairs = [(target, name) for target, name, _ in imports(path, everywhere=False)]
        used = {f"{target}.{name}" if f"{target}.{name}" in names else target for target, name in pairs}
        graph[module(path)] = (used & names) - {module(path)}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("package", ROOMS)
def test_the_root_stays_small(package: str):
    at_root = [path.name for path in (ROOT / package).glob("*.py")]
    assert len(at_root) <= MOST_AT_THE_ROOT, at_root


def test_every_room_is_listed():
    for package, rooms in ROOMS.items():
        found = {path.stem if path.is_file() else path.name for path in (ROOT / package).iterdir()}
        found = {name for name in found if name not in ("__init__", "__pycache__", "py") and not name.startswith(".")}
        assert found <= {*rooms, "py.typed"}, found - {*rooms}
