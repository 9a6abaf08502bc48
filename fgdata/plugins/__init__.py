"""Plug-ins: modules of the user that add datasets, detectors, encoders, methods and recipes to these packages.

A plug-in is a module, or a file ending in .py, with one or more of these dicts:

    DATASETS   name -> fgdata.datasets.DatasetRow
    DETECTORS  name -> fgdata.saliency.DetectorRow
    ENCODERS   name -> fgdata.selection.EncoderRow
    METHODS    name -> subclass of fgtrain.settings.common.Config
    RECIPES    name -> function without arguments that returns such a config

`--plugin MODULE` loads one; installed distributions name them as entry points (GROUPS). A set and a run record the
plug-ins that they need, and a command that lacks one asks for it by name: no code runs merely because a file names it.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any

from ..errors import InputError

GROUPS = {
    "DATASETS": "fgdata.datasets",
    "DETECTORS": "fgdata.detectors",
    "ENCODERS": "fgdata.encoders",
    "METHODS": "fgtrain.methods",
    "RECIPES": "fgtrain.recipes",
}
"""Kind of entry -> the group of its entry points. The name of an entry point is the entry's, its object the value."""
VARIABLE = "FGDATA_PLUGINS"
"""Environment variable with the plug-ins of worker processes, as `load` takes them, one per line."""
Tables = Mapping[str, dict[str, Any]]
"""Kind -> the dict that plug-ins add to."""

_providers: dict[tuple[str, str], str] = {}  # (kind, name) -> the plug-in, as the user typed it; "" if installed
_modules: dict[str, ModuleType] = {}  # by what the user typed


def take(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command -> those without `--plugin MODULE`, and the modules. InputError if one has no name."""
    rest, names = [], []
    given = iter(words)
    for word in given:
        flag, equals, value = word.partition("=")
        if flag != "--plugin":
            rest.append(word)
            continue
        value = value if equals else next(given, "")
        if not value or value.startswith("-"):
            raise InputError("--plugin takes the name of a module or of a file: --plugin mine, --plugin mine.py")
        names.append(value)
    return rest, names


def load(names: Iterable[str], tables: Tables) -> None:
    """Imports plug-ins and adds their entries to the tables.

    Args:
        names: Modules (found in the working folder too) or files ending in .py.
        tables: Those that the program has; a plug-in's other dicts are ignored.

    Raises:
        InputError: A module is not found or cannot be imported, has no entries, or has one that exists already.
    """
    for name in names:
        module = _import(name)
        kinds = [kind for kind in GROUPS if hasattr(module, kind)]
        if not kinds:
            raise InputError(
                f"--plugin {name}: {module.__file__} defines none of {', '.join(GROUPS)}. See docs/extending.md"
            )
        _modules[name] = module
        for kind in kinds:
            for key, value in getattr(module, kind).items():
                _add(kind, key, value, name, tables)
    os.environ[VARIABLE] = "\n".join(_found(name) for name in _modules)


def load_installed(tables: Tables) -> None:
    """Adds the entries that installed distributions name as entry points. InputError if one cannot be imported."""
    for kind in tables:
        for point in entry_points(group=GROUPS[kind]):
            try:
                value = point.load()
            except Exception as fault:
                package = point.dist.name if point.dist else point.module
                raise InputError(
                    f"The plug-in {point.name} of the package {package} cannot be loaded: {_describe(fault)}. "
                    f"Reinstall it, or remove it: pip uninstall {package}"
                ) from fault
            _add(kind, point.name, value, "", tables)


def installed(*kinds: str) -> bool:
    """Whether an installed distribution names entries of these kinds. Imports none of them."""
    return any(entry_points(group=GROUPS[kind]) for kind in kinds)


def load_in_worker(tables: Tables) -> None:
    """Loads the plug-ins of the process that started this one, as VARIABLE names them."""
    load_installed(tables)
    load([name for name in os.environ.get(VARIABLE, "").split("\n") if name and name not in _modules], tables)


def needed(kind: str, *names: str) -> dict[str, str]:
    """The plug-ins, named by --plugin, that provide these entries -> the sha256 of each one's file."""
    plugins = [_providers.get((kind, name), "") for name in names]
    return {name: _sha256(_modules[name]) for name in dict.fromkeys(plugins) if name}


def loaded() -> dict[str, str]:
    """The plug-ins that --plugin named -> the sha256 of each one's file."""
    return {name: _sha256(module) for name, module in _modules.items()}


def flags() -> str:
    """The flags that load the same plug-ins, for a command that is printed: " --plugin mine", or ""."""
    return "".join(f" --plugin {quote(name)}" for name in _modules)


def ask(owner: str, recorded: Any) -> str:
    """A sentence that asks for the plug-ins in a manifest or run.json that are not loaded; "" without any.

    owner: what needs them. recorded: the value under `plugins`.
    """
    names = [str(name) for name in recorded] if isinstance(recorded, dict) else []
    missing = [name for name in names if name not in _modules]
    if not missing:
        return ""
    one = len(missing) == 1
    words = " ".join(f"--plugin {quote(name)}" for name in missing)
    return f"{owner} needs the plug-in{'' if one else 's'} {', '.join(missing)}: add {words} to the command."


def describe_changed(recorded: Any) -> str:
    """Which loaded plug-ins have another file than those recorded in a run.json; "" if none."""
    old, now = recorded if isinstance(recorded, dict) else {}, loaded()
    changed = [name for name in now if old.get(name, now[name]) != now[name]]
    if not changed:
        return ""
    one = len(changed) == 1
    return f"the file of the plug-in{'' if one else 's'} {', '.join(changed)} has changed"


def _add(kind: str, key: str, value: Any, name: str, tables: Tables) -> None:
    table = tables.get(kind)
    if table is None or table.get(key) is value:
        return
    if key in table:
        other = _providers.get((kind, key), "")
        raise InputError(
            f"{f'--plugin {name}' if name else 'An installed plug-in'} adds {key!r} to {kind}, but "
            f"{f'--plugin {other}' if other else 'this program'} already has that name. Rename it."
        )
    table[key] = value
    _providers[kind, key] = name


def _import(name: str) -> ModuleType:
    """Imports a plug-in by the name of a module or file; a folder is added to the path so that workers find it too."""
    path = Path(name)
    folder, module = (path.resolve().parent, path.stem) if path.suffix == ".py" else (Path.cwd(), name)
    if path.suffix == ".py" and not path.is_file():
        raise InputError(f"--plugin {name}: there is no such file.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        imported = import_module(module)
    except ModuleNotFoundError as fault:
        if fault.name == module.partition(".")[0]:
            raise InputError(
                f"--plugin {name}: there is no module {module} in {folder} or among the installed packages."
            ) from None
        raise InputError(f"--plugin {name}: {_describe(fault)}. Install it.") from fault
    except Exception as fault:
        raise InputError(f"--plugin {name} cannot be imported: {_describe(fault)}") from fault
    if path.suffix == ".py" and Path(imported.__file__ or "").resolve() != path.resolve():
        raise InputError(f"--plugin {name}: a module {module} is already loaded from {imported.__file__}. Rename it.")
    return imported


def _found(name: str) -> str:
    """The name with which a worker in another folder finds the plug-in."""
    return str(Path(name).resolve()) if name.endswith(".py") else name


def _sha256(module: ModuleType) -> str:
    return hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()


def _describe(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"
