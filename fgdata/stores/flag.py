"""The flags that name a place. Apart from `place`, which readers import: they need no command line."""

from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from .place import Url, place


def _place(metavar: str, optional: bool = False) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: None if optional and words[0] == "None" else place(words[0]),
        is_instance=lambda value: isinstance(value, Url | Path) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


Place = Annotated[Url | Path, _place("PATH-or-URL")]
"""The place of a shard set: the path of a folder, or the URL of one in remote storage."""
Local = Annotated[Url | Path, _place("PATH")]
"""The path of a folder. A URL is parsed too, so that the command can say what to do instead."""
MaybePlace = Annotated[Url | Path | None, _place("{None}|PATH-or-URL", optional=True)]
"""A place or None. tyro warns of a default that is a path where the type is `Place | None`: it sees only one level of a
union."""
