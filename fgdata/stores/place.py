"""The place of a shard set: the path of a folder, or the URL of one in remote storage."""

import re
from pathlib import Path

from ..errors import InputError

SCHEMES = ("s3", "gs", "hf", "https", "http")
_ALLOWED = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, hf://datasets/ORG/NAME, https://HOST/FOLDER, http://HOST/FOLDER"
_LOST_SLASH = re.compile(rf"^({'|'.join(SCHEMES)}):/([^/])")  # of a URL that became a path


class Url(str):
    """The URL of a folder or a file, without a slash at its end. Make one with `place`.

    Example:
        >>> str(Url("s3://birds/cub") / "manifest.json")
        's3://birds/cub/manifest.json'
    """

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self}/{name}")

    @property
    def scheme(self) -> str:
        """s3, gs, hf, https or http."""
        return self.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part: "cub" of s3://birds/cub."""
        return self.rpartition("/")[2]

    def resolve(self) -> "Url":
        """The same URL, as a path's `resolve` gives the absolute path."""
        return self


def place(text: str | Path) -> Path | Url:
    """The place that a user names: a Url for text with ://, else a path.

    Raises:
        InputError: The URL is of another scheme, names no folder, or has a password, a query or a part "..".
    """
    if isinstance(text, Url):
        return text
    if isinstance(text, Path):
        if _LOST_SLASH.match(str(text)):
            raise InputError(f"{text} is a path, which has lost a slash of the URL. Pass the URL as text.")
        return text
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    rest = rest.rstrip("/")
    if scheme not in SCHEMES or not rest or (scheme == "hf" and not re.match("datasets/[^/]+/[^/]+", rest)):
        raise InputError(f"{text} is not the URL of a shard set; allowed: {_ALLOWED}.")
    if "@" in rest.split("/")[0]:
        raise InputError(
            "A URL with a user or password would be recorded in files of a run. Set credentials in the environment "
            "(docs/remote.md), and name the URL without them."
        )
    if re.search(r"[?#\s\x00-\x1f\x7f]", rest) or {"", ".", ".."} & {*rest.split("/")}:
        raise InputError(
            f"{text!r} has a query, a space, or an empty part. Name the folder alone; allowed: {_ALLOWED}."
        )
    return Url(f"{scheme}://{rest}")


def need_path(where: Path | Url, flag: str) -> Path:
    """The path of what a command writes on this machine. InputError, naming the flag, for a URL."""
    if isinstance(where, Url) or _LOST_SLASH.match(str(where)):
        url = _LOST_SLASH.sub(r"\1://\2", str(where))
        raise InputError(f"{flag} {url} is a URL; this command writes to this machine. Name a path: {flag} PATH")
    return where


def need_local(where: Path | Url, command: str) -> Path:
    """The path of a folder of this machine. InputError, naming the command, for a URL."""
    if isinstance(where, Url):
        raise InputError(
            f"{command} needs a folder of this machine, and {where} is a URL. Copy the set to a folder first "
            "(docs/remote.md)."
        )
    return where
