"""Where the tests find things."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS, TINY = ROOT / "tools", ROOT / "shards" / "tiny"
REAL_DATA = Path(os.environ.get("FGDATA_REAL_DATA") or ROOT.parent / "shared" / "data")
"""Real images, where they are present; a test that needs them skips otherwise."""
