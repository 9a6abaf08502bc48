"""The names of commands, as they are typed."""

from collections.abc import Collection, Sequence

from ..errors import InputError, suggest


def check_command(program: str, words: Sequence[str], names: Collection[str]) -> None:
    """InputError if the first word is none of the commands of `program`; a flag, or no word, is left to tyro."""
    if words and not words[0].startswith("-") and words[0] not in names:
        raise InputError(
            f"{words[0]!r} is not a command of {program}.{suggest(words[0], names)} Allowed: {', '.join(names)}. "
            f"Help: {program} --help"
        )
