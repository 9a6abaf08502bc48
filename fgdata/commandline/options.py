"""The registry of tyro's rules: how a value that does not suit an option is reported."""

from collections.abc import Callable
from typing import Any, Union, get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

REGISTRY = ConstructorRegistry()
"""For `tyro.cli(registry=...)`."""
_WORDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "text"}


@REGISTRY.primitive_rule
def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`T | None` of one word that is not a choice of words: tyro's own rule prints Python's types and errors."""
    kinds = get_args(info.type) if type(None) in get_args(info.type) else ()
    if not kinds:
        return None
    inner: Any = Union[tuple(kind for kind in kinds if kind is not type(None))]  # noqa: UP007
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec) or spec.nargs != 1 or spec.choices is not None:
        return None

    def read(words: list[str]) -> Any:
        return None if words == ["None"] else spec.instance_from_str(words)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{spec.metavar}",
        instance_from_str=_named(read, spec.metavar),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


def describe(metavar: str) -> str:
    """What tyro shows for a type, in words: "INT" -> "a whole number", "FLOAT|{own}" -> "a number or own"."""
    return " or ".join(_WORDS.get(part, part.strip("{}")) for part in metavar.split("|"))


def _named(read: Callable[[list[str]], Any], metavar: str) -> Callable[[list[str]], Any]:
    """`read`, whose ValueError says what the word should be."""

    def read_or_name(words: list[str]) -> Any:
        try:
            return read(words)
        except ValueError:
            raise ValueError(f"{words[0]!r} is not {describe(metavar)}") from None

    return read_or_name


@REGISTRY.primitive_rule
def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """int and float, for the same reason."""
    kind: Any = info.type
    if kind not in (int, float):
        return None
    metavar = kind.__name__.upper()
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=_named(lambda words: kind(words[0]), metavar),
        is_instance=lambda value: isinstance(value, kind | int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )
