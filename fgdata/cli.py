"""The `fgdata` command.

build-shards, finish, rebox, add, coreset; check, score, show; card, push, pull; list, fetch-model
"""

import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from . import plugins
from .commandline import help_as_paragraphs
from .commandline.names import check_command
from .commandline.options import REGISTRY
from .commands.build import build_shards, finish, without_part
from .commands.change import add, coreset, rebox
from .commands.look import check, fetch_model, list_all, score, show
from .commands.share import card, pull, push
from .errors import run_command

DESCRIPTION = (
    "Find the object in every image once, and store its box with the image in WebDataset shards. Every command takes "
    "--plugin MODULE, which loads your own datasets, detectors and encoders (docs/extending.md). "
    "--version prints the version."
)


def functions(words: str) -> dict[str, Any]:
    """The words of this command, which build-shards records -> the function of each command."""
    return {
        "build-shards": partial(build_shards, command=words),
        "finish": finish,
        "rebox": rebox,
        "add": add,
        "coreset": coreset,
        "check": check,
        "score": score,
        "show": show,
        "card": card,
        "push": push,
        "pull": pull,
        "list": list_all,
        "fetch-model": fetch_model,
    }


@lru_cache(1)
def commands() -> Any:
    """The type that tyro parses when the words name no command: all of them. Made once, since tyro keeps every type."""
    rows = [Annotated[Any, subcommand(name, constructor=function)] for name, function in functions("").items()]
    return Union[tuple(rows)]  # noqa: UP007


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line -> exit code: 0, 1 if damage is found, 2 for input that cannot be used.

    args: the words after the program's name; default: those of this process.
    """
    words = sys.argv[1:] if args is None else list(args)

    def command() -> int:
        rest, modules = plugins.take(words)
        if modules or plugins.installed("DATASETS", "DETECTORS", "ENCODERS"):
            from .datasets import DATASETS
            from .saliency import DETECTORS
            from .selection import ENCODERS

            tables = {"DATASETS": DATASETS, "DETECTORS": DETECTORS, "ENCODERS": ENCODERS}
            plugins.load_installed(tables)
            plugins.load(modules, tables)
        named = functions(without_part(words))
        check_command("fgdata", rest, named)
        with help_as_paragraphs(rest):
            # tyro gets one command alone, so that an error suggests its own flags and its own help.
            if rest and (function := named.get(rest[0])):
                return tyro.cli(function, prog=f"fgdata {rest[0]}", args=rest[1:], registry=REGISTRY)
            return tyro.cli(commands(), prog="fgdata", description=DESCRIPTION, args=rest, registry=REGISTRY)

    given = [word for word in words if not word.startswith("-")]
    when_stopped = {
        "build-shards": "Finished shards are kept: rerun the command to resume after them.",
        "finish": "Finished shards are kept: rerun the command.",
        "rebox": "The shard set is unchanged.",
        "add": "The shard set is unchanged.",
        "coreset": "Nothing was written.",
        "push": "What was uploaded is kept: rerun the command to resume.",
        "pull": "What was downloaded is kept: rerun the command to resume.",
        "fetch-model": "The part that was downloaded is kept: rerun the command to resume.",
    }
    return run_command("fgdata", command, lambda: when_stopped.get(given[0] if given else "", ""))


if __name__ == "__main__":
    sys.exit(main())
