"""Converts settings to the contents of config.json and back. Errors name the file and the key."""

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fgdata.errors import InputError

from .common import Config
from .methods import METHODS


def to_dict(config: Config) -> dict[str, Any]:
    """Settings -> plain JSON values, the method's name first."""
    return {"method": config.method, **_plain(dataclasses.asdict(config))}


def from_dict(values: dict[str, Any], source: str) -> Config:
    """The inverse of `to_dict`. Missing keys take their defaults. InputError for an unknown key or a wrong value.

    values: the contents of config.json. source: the file, for error messages.
    """
    method = values.get("method")
    if method not in METHODS:
        raise InputError(f"{source}: method is {method!r}; allowed: {', '.join(METHODS)}.")
    return _build(METHODS[method], {k: v for k, v in values.items() if k != "method"}, source)


def differences(old: Config, new: Config) -> list[str]:
    """The settings that change the result and differ, one line each. The path of the shard set is not one of them."""
    flat_old, flat_new = flat(to_dict(old)), flat(to_dict(new))
    keys = sorted(flat_old.keys() | flat_new.keys())
    relevant = [k for k in keys if not k.startswith("machine.") and k != "data.shards"]
    return [f"{k}: {flat_old.get(k)} -> {flat_new.get(k)}" for k in relevant if flat_old.get(k) != flat_new.get(k)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings -> one level with the names of the flags: {"optim.lr": 0.03}."""
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


T = TypeVar("T")


def _build(kind: type[T], values: dict[str, Any], source: str, prefix: str = "") -> T:
    hints = get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(values.keys() - fields):
        raise InputError(
            f"{source} has the unknown setting {prefix + unknown[0]!r}; allowed: "
            f"{', '.join(prefix + f for f in sorted(fields))}."
        )
    built = {}
    for key, value in values.items():
        hint, name = hints[key], prefix + key
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            built[key] = _build(hint, value, source, name + ".")  # pyright: ignore[reportArgumentType]
        else:
            built[key] = _leaf(hint, value, f"{source}: {name}")
    return kind(**built)


def _leaf(hint: Any, value: Any, name: str) -> Any:
    """A JSON value -> a value of the field's type. InputError that names both if it does not fit."""
    origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint):
            return value
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _leaf(option, value, name)
            except InputError:
                continue
    elif origin is tuple and isinstance(value, list):
        kinds = get_args(hint)
        each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(each) == len(value):
            return tuple(_leaf(k, v, name) for k, v in zip(each, value))
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise InputError(f"{name} is {value!r}; expected {hint.__name__ if isinstance(hint, type) else hint}.")
