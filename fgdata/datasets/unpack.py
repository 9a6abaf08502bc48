"""Unpacks a tar or zip into a folder: only inside it, and only what fits."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from ..errors import InputError
from ..files.space import need_space

MOST_TIMES = 100
"""How many times larger than its archive the content may be. Images compress little, their lists about tenfold."""
MOST_HEADER = 1 << 20
"""Bytes of a header's extension: attributes (pax) or a long name (GNU). Published ones have a few hundred."""
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS += (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE)
LEAST_LIMIT = 1 << 30
"""Content of up to this many bytes is always allowed."""


def unpack(path: Path, root: Path) -> None:
    """Unpacks the archive `path` into `root`.

    InputError if it is damaged, a member would be written outside `root`, or the content is larger than `MOST_TIMES`
    the archive or than the free space. Files unpacked before the fault was found remain.
    """
    budget, what, instead = _Budget(path), f"The content of {path}", "name another folder: --root FOLDER"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    budget.spend(entry.file_size)
                    if not (root / entry.filename).resolve().is_relative_to(root.resolve()):
                        raise InputError(
                            f"{path}: its member {entry.filename!r} would be written outside {root}. "
                            "Nothing was unpacked. Remove the archive."
                        )
                need_space(budget.spent, root, what, instead)
                archive.extractall(root)
        else:

            def check(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
                budget.spend(member.size)
                need_space(member.size, root, what, instead)
                return tarfile.data_filter(member, folder)

            with tarfile.open(path, tarinfo=_Member) as archive:
                archive.extractall(root, filter=check)
    except tarfile.FilterError as fault:
        raise InputError(f"{path}: {fault}. Unpacking stopped. Remove the archive.") from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as fault:
        raise _damaged(path, fault) from None
    except (EOFError, RuntimeError, ValueError) as fault:  # truncated, encrypted or of an unknown method, bad names
        raise _damaged(path, fault) from None


class _Member(tarfile.TarInfo):
    """A member whose header is refused before `tarfile` reads a long extension of it into memory."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENSIONS and member.size > MOST_HEADER:
            raise InputError(
                f"One of the headers in the archive has {member.size:,} bytes; at most {MOST_HEADER:,} are allowed, so "
                "the archive is not the published one. Unpacking stopped. Remove the archive."
            )
        return member


class _Budget:
    """The bytes that an archive may still unpack."""

    def __init__(self, path: Path):
        self.path = path
        self.most = max(LEAST_LIMIT, MOST_TIMES * path.stat().st_size)
        self.spent = 0

    def spend(self, size: int) -> None:
        self.spent += max(0, size)
        if self.spent > self.most:
            raise InputError(
                f"{self.path}: its content is larger than {self.most / 1e9:,.1f} GB, {MOST_TIMES} times the archive, "
                "so it is not the published dataset. Unpacking stopped. Remove the archive."
            )


def _damaged(path: Path, fault: Exception) -> InputError:
    return InputError(f"{path} cannot be unpacked: {fault}. Remove it and rerun the command.")
