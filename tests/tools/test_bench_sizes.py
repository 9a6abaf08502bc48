"""docs/sizes.json has the rows that tools/bench.py sizes measures."""

import json
import sys

from paths import TOOLS

sys.path.insert(0, str(TOOLS))
import bench_sizes

sys.path.remove(str(TOOLS))


def test_the_file_has_a_row_for_each_setting():
    figures = json.loads((TOOLS.parent / "docs" / "sizes.json").read_text())["figures"]
    assert [(row["max_side"], row["quality"]) for row in figures] == list(bench_sizes.SETTINGS)
