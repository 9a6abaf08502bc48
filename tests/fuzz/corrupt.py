"""Ways to corrupt a file: its bytes, its lines, its JSON, its kind. Each returns a short description of what it did."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

HUGE, DEEP, RAW = "@huge@", "@deep@", "@raw@"
"""Placeholders in a JSON tree, replaced in its text by what json.dumps cannot write."""
TEXTS = {HUGE: "9" * 4301, DEEP: "[" * 100_000, RAW: '"\udcff"'}
WORDS = (
    *("", " ", ".", "..", "../outside/x", "/dev/zero", "a/b", "a\nb", "a\x00b", "a,b", "[red]x[/]", "[/]", "[bold"),
    *("<script>alert(1)</script>", "\x1b[31mred", "\ud800", "é", "e\u0301", "a" * 100_000, "nan", "-1", "1e999"),
)
NUMBERS = (0, -1, 1, 0.5, -0.0, 1e308, float("nan"), float("inf"), 255, 256, 2**31, 2**32 + 1, 2**63, 2**64, 10**30)
VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"a": 1}, HUGE, DEEP, RAW, *WORDS, *NUMBERS)
NAMES = (
    b"[red]x[link].jpg",
    b"a\nb.jpg",
    b"\xff\xfe.jpg",
    b"._x.jpg",
    b"-rf.jpg",
    b"x .jpg",
    b"\x1b[31m.jpg",
    b"<b>.jpg",
)


def corrupt_bytes(rng: Random, content: bytes) -> tuple[bytes, str]:
    """A few bytes changed, cut, repeated or inserted, anywhere."""
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    span = slice(at, at + rng.choice((1, 2, 4, 16, 512)))
    kind = rng.choice(("flip", "flip", "flips", "cut", "insert", "delete", "zero", "ff", "repeat", "swap", "empty"))
    if kind == "flip" and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(rng.randrange(2, 30)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = rng.choice((b"\x00", b"\xff\xff\xff\xff", b"\n", b"[" * 5000, b"9" * 4301, rng.randbytes(40)))
    elif kind == "delete":
        del data[span]
    elif kind in ("zero", "ff"):
        data[span] = (b"\x00" if kind == "zero" else b"\xff") * len(data[span])
    elif kind == "repeat":
        data[at:at] = data[span]
    elif kind == "swap":
        data[span] = data[span][::-1]
    elif kind == "empty":
        data.clear()
    return bytes(data), f"bytes: {kind} at {at:,}"


def corrupt_lines(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A line, or one field of a line, dropped, repeated or replaced."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    comma = b"," if b"," in lines[at] else b" "
    fields = lines[at].split(comma)
    field = rng.randrange(len(fields))
    kind = rng.choice(("drop", "repeat", "swap", "field", "field", "field", "fields", "prefix", "mark", "carriage"))
    value = str(rng.choice((*WORDS, *NUMBERS, "9" * 4301))).encode("utf-8", "replace")
    if kind == "drop":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "swap":
        lines.reverse()
    elif kind == "field":
        fields[field] = value
        lines[at] = comma.join(fields)
    elif kind == "fields":
        lines[at] = comma.join(fields[:field] if rng.random() < 0.5 else [*fields, value])
    elif kind == "prefix":
        lines[at] = rng.choice((b"\xff", b"\x00", b'"', b"'", b"#", b"a" * 200_000)) + lines[at]
    elif kind == "mark":
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe")) + data, "lines: byte order mark"
    elif kind == "carriage":
        return data.replace(b"\n", b"\r"), "lines: carriage returns"
    return b"\n".join(lines), f"lines: {kind} in line {at + 1}"


def corrupt_tree(rng: Random, tree: Any) -> tuple[Any, str]:
    """One node of a JSON value replaced, dropped, renamed or repeated. The value itself is changed."""
    places = list(_places(tree, ()))
    if not places:
        return rng.choice(VALUES), "JSON: everything replaced"
    holder, key, path = rng.choice(places)
    kind = rng.choice(("replace", "replace", "replace", "drop", "rename", "repeat", "wrap"))
    value = rng.choice(VALUES)
    if kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(rng.choice(WORDS))] = holder.pop(key)
    elif kind == "repeat" and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == "wrap":
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    else:
        holder[key] = value
        return tree, f"JSON: {'.'.join(map(str, path))} = {str(value)[:40]!r}"
    return tree, f"JSON: {kind} {'.'.join(map(str, path))}"


def _places(tree: Any, path: tuple) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key, (*path, key)
        yield from _places(value, (*path, key))


def dump_json(tree: Any) -> bytes:
    """A corrupted JSON value as text, placeholders included."""
    text = json.dumps(tree)
    for placeholder, content in TEXTS.items():
        text = text.replace(f'"{placeholder}"', content)
    return text.encode("utf-8", "surrogateescape")


def corrupt_json(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A JSON file, or one line of a JSON-lines file."""
    lines = data.splitlines()
    try:
        tree = json.loads(data)
    except ValueError:
        at = rng.randrange(len(lines))
        lines[at], what = corrupt_json(rng, lines[at])
        return b"\n".join(lines) + b"\n", f"line {at + 1}: {what}"
    tree, what = corrupt_tree(rng, tree)
    return dump_json(tree), what


def replace_file(rng: Random, path: Path) -> str:
    """Another kind of file in the place of this one."""
    kinds = ("fifo", "folder", "zero", "gone", "loop", "dangling", "sparse", "socket", "outside")
    kind = rng.choice(kinds)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 28)
    elif kind == "socket":
        here = os.getcwd()
        try:
            os.chdir(path.parent)  # the path of a socket is at most 108 bytes
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
        finally:
            os.chdir(here)
    elif kind != "gone":
        links = {"zero": "/dev/zero", "loop": path.name, "dangling": "missing", "outside": "/proc/self/environ"}
        path.symlink_to(links[kind])
    return f"{path.name} is now: {kind}"


def add_odd_name(rng: Random, folder: Path, content: bytes) -> str:
    """One more entry of an odd name in a folder: a file, a folder, a FIFO or a link to its own parent."""
    name = os.path.join(os.fsencode(folder), rng.choice(NAMES))
    kind = rng.choice(("file", "file", "folder", "fifo", "parent"))
    if os.path.lexists(name):  # placed by an earlier step
        return f"{name.decode(errors='replace')} stays"
    if kind == "file":
        with open(name, "wb") as file:
            file.write(content)
    elif kind == "folder":
        os.makedirs(name, exist_ok=True)
    elif kind == "fifo":
        os.mkfifo(name)
    else:
        os.symlink("..", name)
    return f"added {os.path.basename(name)!r}: {kind}"


def is_regular(path: Path) -> bool:
    """Whether it is safe to read here: a file of moderate size, and no link."""
    state = path.lstat() if os.path.lexists(path) else None
    return state is not None and stat.S_ISREG(state.st_mode) and state.st_size < 1 << 24


def regular_files(folder: Path) -> list[Path]:
    """All files below a folder that are safe to read, in order; links are not followed."""
    return sorted(path for path in folder.rglob("*") if is_regular(path))


def remove(path: Path) -> None:
    """Whatever is there, so that a write cannot follow a link or wait for the reader of a FIFO."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def corrupt_file(rng: Random, path: Path) -> str:
    """Whatever suits the file's suffix; one time in eight, another kind of file."""
    if not is_regular(path):
        return f"{path.name} is already corrupted"
    if rng.random() < 0.125:
        return replace_file(rng, path)
    data = path.read_bytes()
    ways: dict[str, Callable[[Random, bytes], tuple[bytes, str]]] = {
        **dict.fromkeys((".json", ".jsonl", ".owner"), corrupt_json),
        **dict.fromkeys((".txt", ".csv", ".idx", ".yaml", ".toml", ".xml"), corrupt_lines),
    }
    way = ways.get(path.suffix, corrupt_bytes) if rng.random() < 0.75 else corrupt_bytes
    try:
        data, what = way(rng, data)
    except (ValueError, IndexError, RecursionError):  # corrupted before, and no longer what its suffix says
        data, what = corrupt_bytes(rng, data)
    path.write_bytes(data)
    return f"{path.name}: {what}"
