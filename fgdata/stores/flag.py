"""The flags that name a place. Apart from `place`, which readers import: they need no command line."""

from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from .place import Url, place


def _place(metavar: str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: place(words[0]),
        is_instance=lambda value: isinstance(value, Url | Path),
        str_from_instance=lambda value: [str(value)],
    )


Place = Annotated[Url | Path, _place("PATH-or-URL")]
"""The place of a shard set: the path of a folder, or the URL of one in remote storage."""
Local = Annotated[Url | Path, _place("PATH")]
"""The path of a folder. A URL is parsed too, so that the command can say what to do instead."""
MaybePlace = Annotated[
    Url | Path | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|PATH-or-URL",
        instance_from_str=lambda words: None if words[0] == "None" else place(words[0]),
        is_instance=lambda value: value is None or isinstance(value, Url | Path),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A place or None. tyro warns of a default that is a path where the type is `Place | None`: it sees only one level of a
union."""
