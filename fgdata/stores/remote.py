"""A folder in remote storage: S3 and what speaks its protocol, Google Cloud Storage, the Hugging Face hub, any web
server that answers with byte ranges.

obstore makes the requests. It repeats those that end in a 5xx or 429, a timeout or a cut connection, with exponential
backoff, and continues a cut answer at the byte where it ended. What still fails is an InputError that names the file.
"""

import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from .place import Url
from .store import RangeFile

RETRIES = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
TIMEOUT_S = 60.0
"""Of one request that reads, its answer included."""
WRITE_TIMEOUT_S = 600.0
"""Of one request that writes, which sends up to 5 MiB."""
PARTS_AT_ONCE = 2
"""Requests that write one file at the same time. They share the line with those of other files: eight files of two
parts each end within the timeout if the line carries 1.2 Mbit/s."""
LISTED = ("s3", "gs")
"""Schemes of storage that lists its files."""
PIECE = 8 << 20  # bytes of a request when a file is read in order


class Remote:
    """The files behind a URL. A file that changes after it was first seen is an error: its ETag or size is compared
    with every answer."""

    parallel = 32

    def __init__(self, url: Url):
        self.place = url
        self._files = connect(url, TIMEOUT_S)
        self._seen: dict[str, tuple[str | None, int]] = {}  # ETag and size by name
        self._listed: tuple[list[str] | None] | None = None
        self._lock = threading.Lock()

    def size(self, name: str) -> int:
        self._list()
        if name not in self._seen:
            with self._naming(name):
                self._compare(name, self._files.head(name))
        return self._seen[name][1]

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(RangeFile(self, name), PIECE)

    def read(self, name: str, size: int, offset: int) -> bytes:
        with self._naming(name):
            answer = self._files.get(name, options={"range": (offset, offset + size)})
            self._compare(name, answer.meta)
            content = answer.bytes().to_bytes()
        expected = max(0, min(size, answer.meta["size"] - offset))
        if len(content) != expected:
            raise InputError(
                f"{self.place / name} cannot be read: the server sent {len(content):,} of {expected:,} bytes from byte "
                f"{offset:,} on. Check the server or the proxy before it, then rerun the command."
            )
        return content

    def names(self) -> list[str] | None:
        return self._list()

    def walk(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of modification (s since 1970) of all files below the folder, by their paths in it.

        Raises:
            InputError: The storage cannot list its files, or a path has an empty part, ".." or a control character.
        """
        if self.place.scheme not in LISTED:
            raise InputError(
                f"{self.place} cannot be listed: only s3:// and gs:// tell which files they have. Copy it to a folder."
            )
        files = {}
        with self._naming("", "listed"):
            for batch in self._files.list():
                for one in batch:
                    self._compare(one["path"], one)
                    files[one["path"]] = one["size"], int(one["last_modified"].timestamp())
        return files

    def put(self, name: str, file: Path | bytes) -> int:
        """Writes a file, which appears whole or not at all, and replaces one of the same name -> its bytes."""
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        with self._naming(name, "written"):
            self._writer.put(name, file, max_concurrency=PARTS_AT_ONCE)
            written = self._files.head(name)["size"]
        if written != size:
            raise InputError(f"{self.place / name} has {written:,} bytes; {size:,} were written. Rerun the command.")
        return size

    @cached_property
    def _writer(self) -> Any:
        return connect(self.place, WRITE_TIMEOUT_S)

    def delete(self, names: list[str]) -> None:
        """Removes files."""
        with self._naming("", "removed"):
            self._files.delete(names)

    def close(self) -> None:
        pass

    def __reduce__(self) -> tuple:
        return Remote, (self.place,)

    def _list(self) -> list[str] | None:
        """Asks once; remembers the names, and the ETag and size of each file."""
        with self._lock:
            if self._listed is None:
                self._listed = (self._ask_for_names(),)
            return self._listed[0]

    def _ask_for_names(self) -> list[str] | None:
        if self.place.scheme not in LISTED:  # web servers have no such request
            return None
        try:
            with self._naming("", "listed"):
                answer = self._files.list_with_delimiter()
        except _Denied:  # a public bucket may allow reading only
            return None
        files = {os.path.basename(one["path"]): one for one in answer["objects"]}
        for name, one in files.items():
            self._compare(name, one)
        return sorted([*files, *(os.path.basename(folder.rstrip("/")) for folder in answer["common_prefixes"])])

    def _compare(self, name: str, about: Any) -> None:
        """InputError if the file is another than when it was first seen."""
        now = about["e_tag"], about["size"]
        first = self._seen.setdefault(name, now)
        if first[1] != now[1] or (first[0] and now[0] and first[0] != now[0]):
            raise InputError(
                f"{self.place / name} was replaced while it was in use: it had {first[1]:,} bytes and ETag {first[0]}, "
                f"and has {now[1]:,} bytes and ETag {now[0]} now. Wait until the set is complete, then rerun the "
                "command."
            )

    @contextmanager
    def _naming(self, name: str, done: str = "read") -> Iterator[None]:
        """Raises FileNotFoundError or InputError for what obstore raises; each names the file."""
        from obstore import exceptions

        url = self.place / name if name else self.place
        if _PROCESSES and os.getpid() not in _PROCESSES:
            raise InputError(
                f"{url} cannot be {done} in a forked process: the threads that make the requests are missing there, so "
                'it would hang. Start processes with spawn: multiprocessing_context="spawn"'
            )
        _PROCESSES.add(os.getpid())
        try:
            yield
        except (FileNotFoundError, exceptions.BaseError) as error:
            text, advice = str(error), _ACCESS[url.scheme.replace("https", "http")]
            answer = text.partition("\n\nDebug source")[0]
            seconds = WRITE_TIMEOUT_S if done == "written" else TIMEOUT_S
            words = re.sub(r"\S*/\S*", "", answer.replace(name or url, "")).lower()  # without paths and URLs
            if "<Code>NoSuchBucket<" in answer:
                raise InputError(f"{url} cannot be {done}: there is no such bucket. {advice}") from None
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "No such file in remote storage", str(url)) from None
            if re.search("status code: 40[13]", answer) or "credential" in words:
                raise _Denied(f"{url} cannot be {done}: {_describe(text, seconds)}. {advice}") from None
            reason, advice = _describe(text, seconds), "Check the network and the server, then rerun the command."
            if isinstance(error, exceptions.NotSupportedError):
                reason, advice = "the server does not answer with byte ranges", "Copy the set to a server that does."
            if isinstance(error, exceptions.InvalidPathError):
                advice = "Rename that file, or remove it."
            if reason.startswith("the server answered 416"):
                reason, advice = "it is shorter than the set states", "Restore the file, or copy the set again."
            raise InputError(f"{url} cannot be {done}: {reason}. {advice}") from None


_PROCESSES: set[int] = set()
"""This process, once it has made a request; a forked child finds its parent here."""


class _Denied(InputError):
    """The server refuses this user."""


_ACCESS = {
    "s3": "Check the name, and the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with boto3 "
    "installed; AWS_SKIP_SIGNATURE=true for a public bucket; AWS_ENDPOINT_URL for a server other than Amazon's.",
    "gs": "Check the name, and the credentials: GOOGLE_SERVICE_ACCOUNT, or gcloud auth application-default login.",
    "hf": "Check the name, and log in: hf auth login, or HF_TOKEN.",
    "http": "Check the URL; a server that asks for a password is not supported.",
}


def connect(url: Url, timeout_s: float) -> Any:
    """The obstore of a URL; each request ends within `timeout_s`. Nothing is requested yet. InputError if obstore is
    not installed."""
    try:
        from obstore import store
    except ModuleNotFoundError:
        raise InputError(f"{url} needs obstore, which is not installed: pip install obstore") from None
    options: Any = {"timeout": timedelta(seconds=timeout_s), "allow_http": True}
    backoff = {
        "init_backoff": timedelta(seconds=FIRST_WAIT_S),
        "max_backoff": timedelta(seconds=LONGEST_WAIT_S),
        "base": 2,
    }
    retry: Any = {"max_retries": RETRIES, "backoff": backoff, "retry_timeout": timedelta(minutes=3)}
    if url.scheme == "s3":
        return store.S3Store.from_url(url, client_options=options, retry_config=retry, **_profile())  # pyright: ignore
    if url.scheme == "gs":
        return store.GCSStore.from_url(url, client_options=options, retry_config=retry)  # pyright: ignore
    address = str(url)
    if url.scheme == "hf":
        address, token = _hub(url)
        options |= {"default_headers": {"Authorization": f"Bearer {token}"}} if token else {}
    return store.HTTPStore.from_url(address, client_options=options, retry_config=retry)


def _profile() -> dict[str, Any]:
    """Credentials of a profile of the AWS tools, if the environment has no keys but a profile."""
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config")
    has_profile = "AWS_PROFILE" in os.environ or any(Path(file).expanduser().is_file() for file in files)
    if "AWS_ACCESS_KEY_ID" in os.environ or not has_profile or find_spec("boto3") is None:
        return {}
    from obstore.auth.boto3 import Boto3CredentialProvider

    return {"credential_provider": Boto3CredentialProvider()}


def _hub(url: Url) -> tuple[str, str | None]:
    """hf://datasets/ORG/NAME[@REVISION][/FOLDER] -> the address of its files, and the user's token."""
    _, organisation, name, *folder = url.removeprefix("hf://").split("/")
    name, _, revision = name.partition("@")
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    if token is None and find_spec("huggingface_hub") is not None:
        from huggingface_hub import get_token

        token = get_token()
    where = "/".join(["datasets", organisation, name, "resolve", revision or "main", *folder])
    return f"{base}/{where}", token


def _describe(text: str, seconds: float) -> str:
    """obstore's error, which has many lines, and the time limit of the request -> what happened, in a few words."""
    tried = re.search(r"after ([0-9]+) retries", text)
    again = f" ({int(tried[1]) + 1} tries)" if tried else ""
    if status := re.search(r"status code: ([0-9]{3}[A-Za-z ]*)", text):
        code = re.search(r"<Code>([A-Za-z]{1,60})</Code>", text)
        return f"the server answered {status[1].strip()}{f', {code[1]}' if code else ''}{again}"
    for kind, words in _KINDS.items():
        if f"kind: {kind}" in text:
            return words.format(seconds=seconds) + again
    line = text.partition("\n")[0][:300].rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in line)


_KINDS = {
    "Connect": "no connection to the server",
    "Timeout": "no answer within {seconds:.0f} s",
    "Interrupted": "the connection was cut",
}
