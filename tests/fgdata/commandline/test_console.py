"""The console of both packages: an output that cannot be written is an error, or silences it."""

import os
from pathlib import Path
from typing import TextIO

import pytest
from rich.progress import Progress

from fgdata.commandline.console import PlainConsole


def closed_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_disk() -> TextIO:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    return open("/dev/full", "w")


@pytest.mark.parametrize(("output", "error"), [(closed_pipe, BrokenPipeError), (full_disk, OSError)])
def test_an_output_that_cannot_be_written_is_an_error_for_run_command(output, error: type[OSError]):
    """rich itself ends the process when a pipe is closed, with exit code 1; run_command answers 141."""
    stream = output()
    with pytest.raises(error):
        PlainConsole(file=stream).print("text")
    with pytest.raises(error):  # what was not written
        stream.close()


@pytest.mark.parametrize("output", [closed_pipe, full_disk])
def test_a_forgiving_console_is_silenced_once_and_for_all(output):
    """Also for a bar, which writes without `print`, and for what Python flushes at the end."""
    stream = output()
    console = PlainConsole(file=stream, forgiving=True, force_terminal=True)
    with Progress(console=console) as bar:
        bar.update(bar.add_task("x", total=2), advance=1)
        console.print("text")
    assert console.quiet
    stream.write("more")
    stream.close()


@pytest.mark.parametrize("text", ["[red]a[/red]", ":smile:", "[/x]", "123 'abc' https://a.b"])
def test_text_is_printed_as_it_is(text: str, tmp_path: Path):
    with (tmp_path / "out").open("w") as stream:
        PlainConsole(file=stream, force_terminal=True).print(text)
    assert (tmp_path / "out").read_text() == f"{text}\n"
