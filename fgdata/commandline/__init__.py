"""Help as paragraphs: docstrings are wrapped at the terminal's width, not where the source file breaks its lines.

tyro 1.0 keeps the source's line breaks in the description of an argument, and before a line that starts with a space or
a sign, and prints the description of a command without wrapping it. It also prints "(default: None)" or "(default: )"
after a description that says what happens without the flag. This module changes all of that.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import docstring_parser
import tyro

FRAME = "│╭╰─"
"""Characters that a line inside one of tyro's boxes starts with: tyro wraps these itself."""


@contextmanager
def help_as_paragraphs(words: Sequence[str]) -> Iterator[None]:
    """Reflows the help that tyro prints in the block into paragraphs. words: the command line; no effect without -h."""
    if not {"-h", "--help"} & {*words}:
        yield
        return
    strings: Any = tyro._strings  # pyright: ignore[reportAttributeAccessIssue]
    arguments: Any = tyro._arguments  # pyright: ignore[reportAttributeAccessIssue]
    original, parse, stream = strings.remove_single_line_breaks, docstring_parser.parse, sys.stdout
    describe = arguments.generate_argument_helptext

    def parse_joined(*given: Any, **options: Any) -> docstring_parser.Docstring:
        parsed = parse(*given, **options)
        for parameter in parsed.params:
            parameter.description = join_lines(parameter.description or "")
        return parsed

    def describe_once(argument: Any, *given: Any, **options: Any) -> Any:
        field = argument.field
        text = field.helptext() if callable(field.helptext) else field.helptext
        if field.default in (None, ()) and "Default: " in str(text):
            hint = ""
        elif field.default == ():
            hint = "(default: none)"
        else:
            return describe(argument, *given, **options)
        field = replace(field, argconf=replace(field.argconf, help_behavior_hint=hint))
        return describe(replace(argument, field=field), *given, **options)

    strings.remove_single_line_breaks, docstring_parser.parse = join_lines, parse_joined
    arguments.generate_argument_helptext = describe_once
    sys.stdout = _Wrapping(stream)
    try:
        yield
    finally:
        strings.remove_single_line_breaks, docstring_parser.parse = original, parse
        arguments.generate_argument_helptext = describe
        sys.stdout = stream


def join_lines(text: str) -> str:
    """Joins the lines of each paragraph; an empty line ends one, and a line that starts with "* " begins one."""
    paragraphs: list[str] = [""]
    for line in (line.strip() for line in text.strip().splitlines()):
        if not line:
            paragraphs += ["", ""] if paragraphs[-1] else []
        elif line.startswith("* ") and paragraphs[-1]:
            paragraphs.append(line)
        else:
            paragraphs[-1] = f"{paragraphs[-1]} {line}".strip()
    return "\n".join(paragraphs)


def wrap(text: str, width: int) -> str:
    """Wraps lines longer than `width` between words, and inside {a,b,c} after commas; lines in boxes are unchanged."""
    return "\n".join(_wrap_line(line, width) for line in text.split("\n"))


def _wrap_line(line: str, width: int) -> str:
    if len(line) <= width or line.lstrip("\x1b[0123456789;m").startswith(tuple(FRAME)):
        return line
    loose = re.sub(r",(?=[^\s,]+[,}])", ", ", line) if line.startswith("usage: ") else line
    indent = "  " if line.startswith("usage: ") else ""
    return textwrap.fill(loose, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


class _Wrapping:
    """Standard output that wraps what is written to it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(wrap(text, shutil.get_terminal_size().columns))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
