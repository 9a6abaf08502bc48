"""InputError, the exception whose message is for the user, and how a command line reports it."""

import errno
import io
import os
import sys
from collections.abc import Callable

_USER_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
}


class InputError(Exception):
    """Input or settings that cannot be used.

    The message names the thing, what was found, what is allowed, and the next command.
    """


def counted(count: int, noun: str) -> str:
    """1, "image" -> "1 image"; 2889, "image" -> "2,889 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """A file's name -> text that can be encoded as UTF-8: bytes of the name that are not UTF-8 become \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def run_command(program: str, command: Callable[[], int | None], when_stopped: str = "") -> int:
    """Runs the function of a command line -> its exit code.

    program: the name that starts every message. command: returns an exit code; None means 0. when_stopped: a sentence
    on what an interrupted command leaves on disk and how to resume; empty for a command that writes nothing.
    Errors that a user can fix (InputError, a full disk, missing permissions) print one message and give 2, Ctrl-C gives
    130, a closed pipe 141. Any other exception is raised.
    """
    for stream in (sys.stdout, sys.stderr):  # an ASCII-only terminal gets \\u2026 instead of an exception
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command() or 0
    except InputError as fault:
        print(f"{program}: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: stopped. {when_stopped}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the pipe has exited, like `head`; Python would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as fault:
        if fault.errno not in _USER_ERRORS:
            raise
        where = f": {fault.filename}" if fault.filename else ""
        why = " (limited by `ulimit -f` or by the file system)" if fault.errno == errno.EFBIG else ""
        print(f"{program}: {fault.strerror}{where}{why}. {when_stopped}".rstrip(), file=sys.stderr)
        return 2
