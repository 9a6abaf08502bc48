"""--download: archives from their publishers into a dataset's root, checked, resumed and unpacked.

All of it happens in ROOT/.download: FILE.part grows, becomes FILE when its MD5 is right, is unpacked into ROOT, and
gives way to FILE.done. Stopped anywhere, the same command goes on from there.
"""

import hashlib
import os
import shutil
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ..errors import InputError
from ..files.lock import create_folder
from ..progress import Progress
from . import DATASETS, Archive, default_root

WORK = ".download"
TRIES = 5  # in a row without a byte gained
CHUNK = 1 << 20
TIMEOUT_S = 60
SECONDS_BETWEEN_LINES = 15.0


def download(name: str, root: Path | str | None = None, archives: tuple[Archive, ...] | None = None) -> None:
    """Dataset `name` into `root` (default: `default_root`); nothing when the root holds files that came otherwise.

    InputError when the publisher does not offer it, when an address does not answer, or when a file is not the one that
    was published.
    """
    if name not in DATASETS:
        raise InputError(f"No dataset is called {name!r}; there are {', '.join(DATASETS)}. See: fgdata list")
    row = DATASETS[name]
    archives = row.archives if archives is None else archives
    if not archives:
        reason = "it is painted by code" if not row.files else f"get it yourself: {row.where}"
        raise InputError(f"Dataset {name} cannot be fetched with --download; {reason}.\nExpected layout: {row.layout}")
    root = default_root(name) if root is None else Path(root)
    work = root / WORK
    if root.is_dir() and not work.is_dir() and any(root.iterdir()):
        print(f"{root} holds files already: nothing is downloaded.", file=sys.stderr)
        return
    create_folder(work, "--root")
    for archive in archives:
        done = work / f"{archive.file}.done"
        if done.is_file() and done.read_text("ascii") == archive.md5:
            print(f"{archive.file} was fetched before; remove {done} to fetch it again.", file=sys.stderr)
            continue
        path = work / archive.file
        if not path.is_file():
            try:
                _fetch(archive, path)
            except InputError:
                with suppress(OSError):  # folders that are still empty go; a part of a file stays
                    work.rmdir()
                    root.rmdir()
                raise
        print(f"Unpacking {archive.file} into {root}", file=sys.stderr)
        _unpack(path, root)
        if hasattr(os, "sync"):  # what was unpacked must survive a power cut that leaves its mark and no archive
            os.sync()
        done.write_text(archive.md5, "ascii")
        path.unlink()


def _fetch(archive: Archive, path: Path) -> None:
    """The archive at `path`, whole and with the right MD5."""
    part = path.with_name(f"{path.name}.part")
    again = f"The same command goes on from there ({part})."
    tries = 0
    while True:
        have = part.stat().st_size if part.is_file() else 0
        try:
            _append(archive, part, have)
            break
        except HTTPError as fault:
            if fault.code not in (408, 425, 429) and fault.code < 500:
                raise InputError(
                    f"{archive.url}: the server says {fault.code} {fault.reason}. Its publisher may have moved it; get "
                    "it by hand (`fgdata list` says where) and give its folder: --root FOLDER"
                ) from None
            reason = f"the server says {fault.code} {fault.reason}"
        except URLError as fault:
            reason = str(fault.reason)
        except (HTTPException, TimeoutError, ConnectionError, SSLError) as fault:
            reason = str(fault) or type(fault).__name__
        now = part.stat().st_size if part.is_file() else 0
        tries = 0 if now > have else tries + 1
        if tries >= TRIES:
            raise InputError(f"{archive.url}: {reason}; {now:,} bytes are here. {again}") from None
        time.sleep(0.2 * 2**tries)
    print(f"Checking {archive.file}", file=sys.stderr)
    if (found := _md5(part)) != archive.md5:
        size = part.stat().st_size
        part.unlink()
        raise InputError(
            f"{archive.url} is not the file that was published: MD5 {found} of {size:,} bytes, expected {archive.md5}. "
            "It was removed. Try once more; when it is the same again, the publisher has changed the file."
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _append(archive: Archive, part: Path, have: int) -> None:
    """Asks for the bytes behind the first `have` and writes them; starts over when the server sends all."""
    request = Request(archive.url, headers={"User-Agent": "fgdata", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as fault:
        if have and fault.code == 416:  # nothing is behind them: the MD5 tells whether they are the file
            return
        raise
    with answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not goes_on and answer.status == 206:
            raise HTTPException(f"the server sent bytes {answer.headers.get('Content-Range')}, not those from {have}")
        have = have if goes_on else 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left and left.isdecimal() else None
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise InputError(
                f"{archive.file} needs {(total - have) / 1e9:,.1f} GB more; {part.parent} has {free / 1e9:,.1f}"
            )
        with part.open("ab" if goes_on else "wb") as file, Progress(archive.file, total, have, "bytes") as progress:
            while data := answer.read(CHUNK):
                file.write(data)
                progress.advance(len(data))
    if total is not None and part.stat().st_size < total:
        raise HTTPException(f"the connection ended {total - part.stat().st_size:,} bytes early")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(path: Path, root: Path) -> None:
    """A tar or zip into root; a member that would land outside of it is refused."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not (root / entry.filename).resolve().is_relative_to(root.resolve()):
                        raise InputError(
                            f"{path}: its member {entry.filename!r} would land outside {root}. Not unpacked."
                        )
                archive.extractall(root)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(root, filter="data")
    except tarfile.FilterError as fault:
        raise InputError(f"{path}: {fault}. It was not unpacked further.") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as fault:
        raise InputError(f"{path} cannot be unpacked: {fault}. Remove it and try once more.") from None
