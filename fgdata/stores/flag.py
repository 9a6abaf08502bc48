"""The flag that names a place. Apart from `place`, which readers import: they need no command line."""

from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from .place import Url, place

Place = Annotated[
    Url | Path,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH-or-URL",
        instance_from_str=lambda words: place(words[0]),
        is_instance=lambda value: isinstance(value, Url | Path),
        str_from_instance=lambda value: [str(value)],
    ),
]
