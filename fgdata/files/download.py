"""Downloads a file over HTTP: resumed where it stopped, checked, and complete when it appears."""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ..errors import InputError, name_file
from ..progress import Progress
from .lock import create_and_lock
from .owners import owning
from .regular import open_regular
from .space import need_space

TRIES = 5  # consecutive attempts without progress
CHUNK = 1 << 20
TIMEOUT_S = 60
OWNERS = ".downloading"
"""In a folder to which a process downloads: its owner file (owners.py)."""


@contextmanager
def only_downloader(folder: Path, flag: str) -> Iterator[None]:
    """Creates a folder, and locks and owns it until the block ends, also against other machines.

    flag: the flag or variable that names the folder, for messages. InputError if another process downloads to it.
    """
    with (
        create_and_lock(folder, flag=flag),
        owning(folder / OWNERS, f"is downloading to {folder}"),
    ):
        yield


def download(url: str, checksum: str, path: Path, *, by_hand: str, flag: str) -> None:
    """Downloads `url` to `path`. `path`.part grows; it becomes `path` when its checksum is right.

    Args:
        url: http or https.
        checksum: MD5 (32 hexadecimal digits) or SHA-256 (64).
        path: The file to create; its folder exists, and the caller has locked it.
        by_hand: A sentence: how to get the file if the server no longer has it.
        flag: The flag or variable that names the folder, for messages.

    Raises:
        InputError: The server fails repeatedly, the checksum is wrong, or the disk is too small. A part is kept for the
            next call unless its checksum is wrong.
    """
    part = path.with_name(f"{path.name}.part")
    resume = f"Rerun the command to resume ({part})."
    if part.exists() and not part.is_file():
        raise InputError(f"{part} is not a regular file. Remove it and rerun the command.")
    tries, now = 0, part.stat().st_size if part.is_file() else 0
    most = now  # a server without ranges starts over: a part that grows again is no progress
    while True:
        try:
            _append(url, part, now, flag)
            break
        except HTTPError as fault:
            if fault.code not in (408, 425, 429) and fault.code < 500:
                raise InputError(
                    f"{url}: the server answered {fault.code} {fault.reason}. The publisher may have moved "
                    f"the file. {by_hand}"
                ) from None
            reason = f"the server answered {fault.code} {fault.reason}"
        except URLError as fault:
            reason = str(fault.reason)
        except (HTTPException, TimeoutError, ConnectionError, SSLError) as fault:
            reason = str(fault) or type(fault).__name__
        now = part.stat().st_size if part.is_file() else 0
        tries = 0 if now > most else tries + 1
        most = max(most, now)
        if tries >= TRIES:
            advice = resume if now else f"Check the network, and rerun the command. {by_hand}"
            raise InputError(f"{url}: {reason}; {now:,} bytes were downloaded so far. {advice}") from None
        time.sleep(0.2 * 2**tries)
    print(f"Checking {path.name}", file=sys.stderr)
    kind = "MD5" if len(checksum) == 32 else "SHA-256"
    if (found := _hash(part, kind)) != checksum:
        size = part.stat().st_size
        part.unlink()
        raise InputError(
            f"{url} is not the published file: {kind} {found} ({size:,} bytes), expected {checksum}. "
            f"The download was removed. Try again; if the {kind} is the same, the publisher has changed the file."
        )
    with name_file(part), part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _append(url: str, part: Path, start: int, flag: str) -> None:
    """Requests the bytes after the first `start` and appends them to `part`; starts over if the server sends all."""
    request = Request(url, headers={"User-Agent": "fgdata", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as fault:
        if start and fault.code == 416:  # there are no more bytes; the checksum tells whether the file is complete
            return
        raise
    name = part.name.removesuffix(".part")
    with answer:
        resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not resumes and answer.status == 206:
            raise HTTPException(f"the server sent bytes {answer.headers.get('Content-Range')}, not those from {start}")
        start = start if resumes else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        if total is not None:
            need_space(total - start, part.parent, name, f"name another folder: {flag} FOLDER")
        with part.open("ab" if resumes else "wb") as file, Progress(name, total, start, "bytes") as progress:
            while data := answer.read(CHUNK):
                with name_file(part):
                    file.write(data)
                progress.advance(len(data))
    if total is not None and part.stat().st_size < total:
        raise HTTPException(f"the connection ended {total - part.stat().st_size:,} bytes early")


def _hash(path: Path, kind: str) -> str:
    with open_regular(path) as file:
        if kind == "SHA-256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
