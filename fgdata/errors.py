"""InputError, the exception whose message is for the user, and how a command line reports it."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TextIO

from . import __version__

_WARNED: set[str] = set()
SHOWN = 5  # how many items of a long list a message names
_DRIVE = "the disk or network drive failed; the system's log says more"
_SERVER = "the server of the network drive does not answer; check the connection and mount the drive again"
_DEVICE = "the device is no longer connected; connect it and mount it again"
_STORAGE = {
    "EIO": _DRIVE,
    **dict.fromkeys(("EREMOTEIO", "EPROTO", "ECOMM"), _DRIVE),
    "ESTALE": "the network drive was remounted, or its server replaced the file; change to the folder again (cd)",
    **dict.fromkeys(("ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"), _SERVER),
    **dict.fromkeys(("ENETUNREACH", "ENETRESET", "ENOLINK", "ENONET", "ECONNREFUSED"), _SERVER),
    **dict.fromkeys(("ENODEV", "ENXIO", "ENOMEDIUM"), _DEVICE),
    **dict.fromkeys(("EUCLEAN", "EBADMSG"), "the file system is damaged; unmount it and check it with fsck"),
    **dict.fromkeys(("EKEYEXPIRED", "EKEYREVOKED", "ENOKEY"), "the key to the drive has expired; log in to it again"),
    "ENOMEM": "the system has no memory left",
    "EMFILE": "this process may not open more files; `ulimit -n` raises the limit",
    "ENFILE": "the system cannot open more files",
}
"""Errors of a disk, a network drive or this machine, which say nothing about the file: name -> what it means."""
_OTHERS = {
    "EFBIG": "limited by `ulimit -f` or by the file system",
    "EROFS": "the file system is mounted for reading only",
    "ELOOP": "a symbolic link leads back to itself; `ls -l` shows where it leads",
}
REMARKS = {getattr(errno, name): text for name, text in (_STORAGE | _OTHERS).items() if hasattr(errno, name)}
"""What an error number of the system means, where the system's own words do not say what to do."""
_FAILING = {getattr(errno, name) for name in _STORAGE if hasattr(errno, name)}
_USER_ERRORS = {
    *REMARKS,
    *(errno.ENOSPC, errno.EDQUOT),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.EBUSY),
}
_FEWER_WORKERS = (
    "Rerun the command with fewer workers (--jobs), or on a machine with more memory. Or remove the image from the "
    "dataset."
)


_REPLACED = ' The working folder was removed or replaced. Change to it again: cd "$PWD"'


class InputError(Exception):
    """Input or settings that cannot be used.

    The message names the thing, what was found, what is allowed, and the next command.
    """


class ReportedStop(KeyboardInterrupt):
    """Ctrl-C after which the command has said what is saved and how to resume: `run_command` prints nothing more."""


class BadImage(InputError):
    """An image that cannot be used, or whose name or box cannot. A build stops at it, or omits it."""

    def __init__(self, fault: str, remedy: str = "Restore the file", command: str = "fgdata build-shards", count=1):
        """fault, remedy: without a full stop. command: builds the set. count: of such images, this one included."""
        super().__init__(fault, remedy, command, count)
        self.fault, self.remedy, self.command, self.count = fault, remedy, command, count

    def __str__(self) -> str:
        skip = f"{self.command} --on-bad-image skip"
        text = f"{self.fault}. {self.remedy}, or build the set without such images: {skip}"
        return text + first_of(self.count)


class NotEnoughMemory(InputError):
    """Memory ran out while an image was processed. The image may be good: it is never skipped for this."""

    def __init__(self, image: str, advice: str = _FEWER_WORKERS):
        super().__init__(image, advice)
        self.image, self.advice = image, advice

    def __str__(self) -> str:
        return f"{self.image}: not enough memory for this image. {self.advice}"


class DetectorError(InputError):
    """A detector failed on an image. The image may be good: it is never skipped for this."""


def first_of(count: int) -> str:
    """The last line of an error about the first of `count` images; "" if there is only one."""
    return "" if count == 1 else f"\nThis is the first of {count:,} such images."


def counted(count: int, noun: str) -> str:
    """1, "image" -> "1 image"; 2889, "image" -> "2,889 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def abbreviate(items: Collection[str]) -> str:
    """The first five items, and the number of the others: "a, b, c, d, e and 12 more"."""
    first = [str(item) for item in list(items)[:SHOWN]]
    return ", ".join(first) + (f" and {len(items) - len(first):,} more" if len(items) > len(first) else "")


def suggest(word: str, names: Iterable[str]) -> str:
    """ " Did you mean cvsa?": the names that a mistyped word resembles; "" if it resembles none."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(names))
    return f" Did you mean {' or '.join(close)}?" if close else ""


def printable(text: str) -> str:
    """A file's name -> text that can be encoded as UTF-8: bytes of the name that are not UTF-8 become \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_failing_storage(fault: BaseException) -> bool:
    """Whether an error comes from a disk, a network drive or this machine, and says nothing about the file it names."""
    return isinstance(fault, OSError) and fault.errno in _FAILING


def describe_exit(code: int) -> str:
    """How a child process ended, by its `returncode`: "signal 11" or "exit code 1"."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def is_reported(fault: BaseException) -> bool:
    """Whether `run_command` reports an error of the system in one line: a full or failing disk, no permission, ..."""
    return isinstance(fault, OSError) and fault.errno in _USER_ERRORS


def describe(fault: OSError) -> str:
    """The system's words for an error, and what they mean: "Read-only file system (the file system is mounted ...)"."""
    remark = REMARKS.get(fault.errno or 0)
    return f"{fault.strerror or fault}" + (f" ({remark})" if remark else "")


@contextmanager
def name_file(path: Path | str) -> Iterator[None]:
    """Adds `path` to an OSError of the block that does not name its file, such as that of a write to a full disk."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None and fault.errno is not None:
            fault.filename = str(path)
        raise


def warn(message: str) -> None:
    """Prints a message to stderr. Does nothing if stderr is closed or has no reader, so the work continues."""
    if sys.stderr:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def warn_once(message: str, about: str = "") -> None:
    """`warn`, once in this process about one thing, by default this message: some files are read again and again."""
    if (about or message) not in _WARNED:
        _WARNED.add(about or message)
        warn(message)


def run_command(program: str, command: Callable[[], int | None], when_stopped: Callable[[], str] = str) -> int:
    """Runs the function of a command line -> its exit code.

    program: the name that starts every message. command: returns an exit code; None means 0. when_stopped: called when
    the command is interrupted -> a sentence on what it leaves on disk and how to resume; "" if it writes nothing.
    Errors that a user can fix (InputError, a full or failing disk, too little memory, missing permissions, a package
    that lacks a library) print one message and give 2, Ctrl-C gives 130, a closed pipe 141. Any other exception is
    raised. Standard streams that are closed are replaced.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # an ASCII-only terminal gets \\u2026 instead of an exception
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command() or 0
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be reported
        return code
    except InputError as fault:
        return _report(f"{program}: {fault}{'' if _has_working_folder() else _REPLACED}", 2)
    except ReportedStop:
        return _report("", 130)
    except KeyboardInterrupt:
        return _report(f"\n{program}: stopped. {when_stopped()}".rstrip(), 130)
    except SystemExit as done:  # of tyro, or of rich, which exits with 1 when it writes to a closed pipe
        if isinstance(done.__context__, BrokenPipeError):
            return _report("", 141)
        raise
    except BrokenPipeError:  # the reader of the pipe has exited, like `head`
        return _report("", 141)
    except ImportError as fault:
        if isinstance(fault, ModuleNotFoundError) or (fault.name or "").partition(".")[0] in ("fgdata", "fgtrain"):
            raise
        what = f"A package is installed, but cannot be imported: {fault}"
        return _report(f"{program}: {what}. Install it again, or what it lacks.", 2)
    except MemoryError:
        return _report(f"{program}: Not enough memory. {when_stopped()}".rstrip(), 2)
    except OSError as fault:
        if fault.errno == errno.ENOENT and not _has_working_folder():
            return _report(f"{program}:{_REPLACED}", 2)
        if not is_reported(fault):
            raise
        path = fault.filename2 or fault.filename or _name_failing_output(fault.errno or 0)
        where = f": {path if isinstance(path, str) else os.fsdecode(path)}" if path else ""
        why = f" ({REMARKS[code]})" if (code := fault.errno or 0) in REMARKS else ""
        return _report(f"{program}: {fault.strerror}{where}{why}. {when_stopped()}".rstrip(), 2)


def run_program(program: str, module: str) -> int:
    """Imports the command line `module` and calls its `main`, for the entry point of a program -> its exit code.

    `--version` alone prints the version of the package, and imports nothing.

    Ctrl-C gives 130 and no traceback during the imports too. The exit code is decided when `main` returns: a signal
    that comes while Python shuts down does not change it, except for Ctrl-C, which ends the process at once.
    """
    if sys.argv[1:] == ["--version"]:
        return run_command(program, lambda: print(f"{program} {__version__}"))
    try:
        return import_module(module).main()
    except KeyboardInterrupt:
        return _report(f"\n{program}: stopped.", 130)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):  # a scheduler may send one twice
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def _name_failing_output(code: int) -> str | None:
    """Names standard output if it raised an error that names no file. If it did not, this prints a line break to it."""
    try:
        print(flush=True)
    except OSError as fault:
        return "standard output" if fault.errno == code else None
    return None


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _report(message: str, code: int) -> int:
    """Prints a message to stderr -> code. Streams that cannot be written are replaced: Python flushes them at exit."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message)):
        try:
            if text:
                print(text, file=stream)
            stream.flush()
        except OSError:
            _discard(stream)
    return code


def _discard(stream: TextIO) -> None:
    with suppress(OSError):  # io.UnsupportedOperation, of a stream without a descriptor, is one too
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Opens the null device in place of standard streams that were closed (`>&-`).

    Python has None for them. The next file that is opened would get their descriptor, and libraries print to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # the order of their descriptors
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(handle, True)  # for worker processes
            setattr(sys, name, open(handle, mode, encoding="utf-8"))  # noqa: SIM115
