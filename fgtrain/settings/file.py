"""Converts settings to the contents of config.json and back. Errors name the file and the key."""

import dataclasses
import reprlib
import types
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fgdata.errors import InputError
from fgdata.stores.place import Url, place

from .common import SAME_RESULT, Config
from .methods import METHODS


def to_dict(config: Config) -> dict[str, Any]:
    """Settings -> plain JSON values, the method's name first."""
    return {"method": config.method, **plain(dataclasses.asdict(config))}


def from_dict(values: dict[str, Any], source: str) -> Config:
    """The inverse of `to_dict`. Missing keys take their defaults. InputError for an unknown key or a wrong value.

    values: the contents of config.json. source: the file, for error messages.
    """
    method = values.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"{source}: method is {method!r}; allowed: {', '.join(METHODS)}.")
    return build(METHODS[method], {k: v for k, v in values.items() if k != "method"}, source)


def merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings, and some that replace theirs -> all; keys may be nested or have dots: {"optim": {"lr": 0.1}} as
    {"optim.lr": 0.1}."""
    merged = dict(values)
    for key, value in changes.items():
        first, _, rest = str(key).partition(".")
        value = {rest: value} if rest else value
        old = merged.get(first)
        merged[first] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def relevant(config: Config) -> dict[str, Any]:
    """The settings that change the result, as plain JSON values by the names of their flags: {"optim.lr": 0.03}.

    The path of the shard set is not one of them: run.json identifies the set by its digest.
    """
    return {k: v for k, v in flat(to_dict(config)).items() if not k.startswith("machine.") and k not in SAME_RESULT}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Two results of `relevant` -> setting: (old, new) of those that differ.

    A setting that `old` lacks does not count: it is newer than the checkpoint that `old` was saved with.
    """
    return {k: (old[k], new.get(k)) for k in sorted(old) if old[k] != new.get(k)}


ORIGIN = {"init", "init_heads", "extend"}
"""Settings that say what a run starts from."""


def blocks_extend(changed: Iterable[str]) -> list[str]:
    """Which of the changed settings a run with --extend must not have: all but the schedule's. The state of an
    optimiser is that of its update rule."""
    free = {"epochs", "seed", *ORIGIN}
    optim = [name for name in changed if name.startswith("optim.") and name != "optim.name"]
    return [name for name in changed if name not in free and name not in optim]


def as_flags(settings: dict[str, Any]) -> str:
    """Settings by name -> the flags that set them: {"optim.lr": 0.1} -> --optim.lr 0.1. None is left out."""
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            prefix, _, last = flag.rpartition(".")
            words.append(f"--{flag}" if value else f"--{prefix}.no-{last}" if prefix else f"--no-{last}")
        elif value is not None:
            words += [f"--{flag}", *(quote(str(v)) for v in _leaves(value))]
    return " ".join(words)


def _leaves(value: Any) -> list[Any]:
    """The values of nested lists in their order; of another value, itself."""
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def plain(value: Any) -> Any:
    """Settings as values that JSON has: a path as text, a tuple as a list."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings -> one level with the names of the flags: {"optim.lr": 0.03}."""
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


T = TypeVar("T")


def build(kind: type[T], values: dict[str, Any], source: str, prefix: str = "") -> T:
    """JSON values by field name -> a settings dataclass. InputError, naming `source`, for a wrong name or value."""
    hints = get_type_hints(kind)
    check_keys(kind, values, source, prefix)
    built = {}
    for key, value in values.items():
        hint, name = hints[key], prefix + key
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            built[key] = build(hint, value, source, name + ".")  # pyright: ignore[reportArgumentType]
        else:
            built[key] = typed(hint, value, f"{source}: {name}")
    return kind(**built)


def check_keys(kind: type, values: dict[str, Any], source: str, prefix: str = "") -> None:
    """InputError, naming `source`, for a key that is no field of a settings dataclass."""
    fields = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - fields):
        raise InputError(
            f"{source} has the unknown setting {prefix + unknown[0]!r}; allowed: "
            f"{', '.join(prefix + f for f in sorted(fields))}."
        )


def typed(hint: Any, value: Any, name: str) -> Any:
    """A JSON value -> a value of the field's type. InputError that names both if it does not fit."""
    origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint):
            return value
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return typed(option, value, name)
            except InputError:
                continue
    elif origin is tuple and isinstance(value, list):
        kinds = get_args(hint)
        each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(each) == len(value):
            return tuple(typed(k, v, name) for k, v in zip(each, value))
    elif hint is Url and isinstance(value, str) and "://" in value:
        return place(value)
    elif hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    shown = reprlib.repr(value)  # shortened: a damaged file may hold anything
    raise InputError(f"{name} is {shown}; expected {_in_words(hint)}.")


def _in_words(hint: Any) -> str:
    """A type -> what a file holds: tuple[int, ...] -> a list of int; int | None -> int or none."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_in_words, parts))
    if get_origin(hint) is tuple:
        return f"a list of {_in_words(parts[0])}" if len(set(parts) - {...}) == 1 else "a list"
    words = {tuple: "a list", list: "a list", dict: "a table", bool: "true or false", types.NoneType: "none"}
    return words.get(hint) or getattr(hint, "__name__", str(hint))
