"""The pages of the project, and the Python blocks on them."""

import re
from pathlib import Path

from paths import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "shards" / "FORMAT.md"]


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in its order."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def python_block(page: Path, word: str) -> str:
    """The one Python block of a page that contains `word`."""
    (block,) = [block for block in python_blocks(page) if word in block]
    return block
