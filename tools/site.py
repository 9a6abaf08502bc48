"""Hooks of mkdocs.yml: pages that are generated when the site is built, links to files outside docs/, and equations.

The pages in docs/ and the README stay as GitHub shows them. Added here: the README as the first page, FORMAT.md,
CONTRIBUTING.md, CHANGELOG.md and RESULTS.md; the help of every command, from the parsers; the API reference, from
docstrings.
"""

import io
import os
import posixpath
import re
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGES = {
    "README.md": "index.md",
    "shards/FORMAT.md": "format.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "RESULTS.md": "study-results.md",
}
"""File of the repository -> page of the site."""
FGTRAIN = ("list", "eval", "compare", "show", "embed", "export")
WIDTH = "80"
API = {
    "Batches of views": ("fgdata.views.load", "fgdata.views.ViewSpec", "fgdata.views.Loader"),
    "Shard sets": ("fgdata.shards.reader.ShardSet", "fgdata.shards.reader.SplitReader"),
    "A sample": ("fgdata.shards.reader.box", "fgdata.shards.reader.label", "fgdata.shards.reader.meta"),
    "Boxes": ("fgdata.boxes.objective", "fgdata.boxes.geometry"),
    "Detectors": ("fgdata.saliency",),
    "Losses": ("fgtrain.objectives.losses",),
    "Objectives": ("fgtrain.objectives.Objective",),
    "Evaluation": ("fgtrain.evaluate.retrieval", "fgtrain.evaluate.intervals"),
}
"""Section of the reference -> names whose docstrings it shows."""


def on_config(config):
    """A page of docs/ that mkdocs.yml does not list yet comes last, under "More"."""
    listed = str(config.nav)
    if more := sorted(path.name for path in (ROOT / "docs").glob("*.md") if f"'{path.name}'" not in listed):
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config) -> Files:
    """Adds the generated pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for program in ("fgdata", "fgtrain"):
        files.append(File.generated(config, f"commands-{program}.md", content=commands(program)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page, **_: object) -> str:
    """Links to files outside docs/ lead to their page, or become the file's path; $$...$$ becomes MathML."""
    source = next((name for name, title in PAGES.items() if title == page.file.src_uri), f"docs/{page.file.src_uri}")

    def link(match: re.Match) -> str:
        text, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if inside:
            return f"[{text}]({inside}{'#' + anchor if anchor else ''})"
        if not (ROOT / file).exists():
            return match[0]  # mkdocs reports it
        return f"`{file}`" if text in (file, posixpath.basename(file)) else f"{text} (`{file}`)"

    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    linked = [part if part.startswith("```") else re.sub(r"\[([^\]\[]+)\]\(([^)\s]+)\)", link, part) for part in parts]
    text = "".join(linked)
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), text, flags=re.DOTALL)
    # In a span, since a line that begins with <math> would be a block of its own.
    return re.sub(r"\$`(.+?)`\$", lambda m: f"<span>{convert(m[1].strip())}</span>", text)


def commands(program: str) -> str:
    """A page with the help of every command of a program, as its parser prints it."""
    page = [f"# {program}\n\nGenerated from the parsers: what `{program} COMMAND --help` prints.\n"]
    for words in names(program):
        title = " ".join([program, *words])
        page.append(f"## {title}\n\n```text\n{help_of(program, words)}\n```\n")
    return "\n".join(page)


def names(program: str) -> list[list[str]]:
    """The words of every command, from the overview's list of subcommands."""
    if program == "fgdata":
        return [[name] for name in listed(help_of("fgdata", []))]
    words: list[list[str]] = [["run", "cvsa"]]
    for name in listed(help_of("fgtrain", [])):
        inner = listed(help_of("fgtrain", [name])) if name in ("eval", "show") else []
        words += [[name, *([one] if one else [])] for one in (inner or [""]) if name != "run"]
    return words


def listed(text: str) -> list[str]:
    """The subcommands that an overview lists in its usage: {a,b,c}."""
    found = re.search(r"\{([^}]+)\}", text.partition("\n\n")[0])
    return re.split(r",\s*", found[1]) if found else []


def help_of(program: str, words: list[str]) -> str:
    """The help text of a command, as plain text."""
    from importlib import import_module

    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update({"COLUMNS": WIDTH, "NO_COLOR": "1"})
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
            import_module(f"{program}.cli").main([*words, "--help"])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).strip()


def reference() -> str:
    """The API reference: one directive of mkdocstrings for each name."""
    sections = [
        f"## {title}\n\n" + "\n".join(f"::: {name}\n    options: {{heading_level: 3}}\n" for name in members)
        for title, members in API.items()
    ]
    return "# API reference\n\nFrom the docstrings. The [guide](api.md) has examples.\n\n" + "\n".join(sections)
