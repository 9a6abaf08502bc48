"""Paths that tests use."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS, TINY = ROOT / "tools", ROOT / "shards" / "tiny"
REAL_DATA = Path(os.environ.get("FGDATA_REAL_DATA") or ROOT.parent / "shared" / "data")
"""Folder of real images; a test that needs them skips if it does not exist."""
