"""The statistics and the text of a study's table, against closed forms."""

import csv
import io
import math
import re

import pytest

from fgtrain.studies import page, tables
from fgtrain.studies.declaration import Column
from fgtrain.studies.figures import Cell, Line, paired
from fgtrain.studies.tables import Table

T_2, T_1 = 4.302652729911275, 12.706204736432095
"""Student's t, .975, two and one degrees of freedom: sqrt(2 / (1 / 0.95^2 - 1)) and tan(0.95 pi / 2)."""
KNN = Column("kNN | raw", "cub", "knn", "accuracy")
HOURS = Column("hours", "cub", "cost", "hours")


def test_the_quantiles_of_student_are_those_of_their_closed_forms():
    assert math.sqrt(2 / (1 / 0.95**2 - 1)) == pytest.approx(T_2)
    assert math.tan(0.95 * math.pi / 2) == pytest.approx(T_1)


def test_paired_differences_use_the_seeds_of_both():
    own, other = {0: 0.5, 1: 0.7, 2: 0.9, 9: 0.1}, {2: 0.6, 0: 0.4, 1: 0.5, 8: 0.0}  # differences 0.1, 0.2, 0.3
    result = paired(own, other)
    assert result is not None
    assert result[0] == pytest.approx(0.2)
    assert result[1] == pytest.approx(T_2 * 0.1 / math.sqrt(3))
    assert paired({0: 0.5}, {0: 0.25}) == (0.25, None)
    assert paired({0: 0.5}, {1: 0.25}) is None


def test_a_cell_has_mean_and_interval_unless_it_is_fixed():
    mean = Cell({0: 0.2, 1: 0.4}).mean
    assert mean is not None
    assert mean[0] == pytest.approx(0.3)
    assert mean[1] == pytest.approx(T_1 * 0.1)
    assert Cell({0: 0.2, 1: 0.2}, fixed=True).mean == (0.2, None)
    assert Cell({}).mean is None


def table() -> Table:
    base = Line("BYOL", (Cell({0: 0.5, 1: 0.52}, 64.85), Cell({0: 7.5})), "")
    other = Line("CVSA & <b>", (Cell({0: 0.55, 1: 0.57}, 66.88, (0.05, 0.01), 2.03), Cell({}, 9)), "BYOL")
    absent = Line("FST", (Cell({}, 64.28), Cell({})), "BYOL", "not | built")
    return Table("A table", ("Scaled down.",), (KNN, HOURS), (base, other, absent), ("foot",))


def test_markdown_has_ours_beside_the_papers():
    text = tables.markdown(table())
    assert "| row | kNN \\| raw | paper | to base | paper, to base | hours | paper |" in text
    assert "| CVSA & \\<b> | 56.0 ± 12.7 | 66.88 | +5.0 ± 1.0 \\* | +2.03 |  | 9 |" in text
    assert "| BYOL | 51.0 ± 12.7 | 64.85 |  |  | 7.5 |  |" in text
    assert text.startswith("# A table\n\nScaled down.\n")


def test_csv_has_a_line_per_cell_with_every_seed():
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(table()))))
    assert len(rows) == 6
    assert (rows[2]["mean"], rows[2]["difference"], rows[2]["values"]) == ("56.0000", "5.0000", "0:55.0000 1:57.0000")
    assert (rows[1]["mean"], rows[1]["values"], rows[3]["paper"]) == ("7.5000", "0:7.5000", "9")
    assert rows[4]["not run"] == "not | built"
    assert [row["n"] for row in rows] == ["2", "1", "2", "0", "0", "0"]


def test_csv_counts_a_value_without_seeds_once():
    given = Line("ImageNet", (Cell({0: 0.5, 1: 0.5}, fixed=True), Cell({}, fixed=True)))
    rows = csv.DictReader(io.StringIO(tables.as_csv(Table("A table", (), (KNN, HOURS), (given,), ()))))
    assert [row["n"] for row in rows] == ["1", "0"]


def test_the_page_is_self_contained_and_draws_every_figure():
    text = page.page(table())
    assert "CVSA &amp; &lt;b&gt;" in text
    assert "<b>" not in text.replace("&lt;b&gt;", "")
    assert "src=" not in text
    assert "href=" not in text
    assert text.count("<svg") == 2
    assert text.count("<rect") == 3  # two of kNN, one of hours
    assert text.count(page.PAPER) == 3 + 1


def test_the_page_draws_the_interval_of_each_mean_to_scale():
    chart = page.page(table()).partition("<h2>kNN")[2].partition("</svg>")[0]
    bars = [float(left) + float(width) for left, width in re.findall(r'<rect x="([\d.]+)".*? width="([\d.]+)"', chart)]
    whiskers = re.findall(rf'M([\d.]+) [\d.]+H([\d.]+)M[^"]*" stroke="{page.INTERVAL}"', chart)
    pixels = (bars[1] - bars[0]) / 5  # of a point: the means are 51 and 56
    assert len(whiskers) == len(bars) == 2
    for bar, (left, right) in zip(bars, whiskers):
        assert (float(left) + float(right)) / 2 == pytest.approx(bar, abs=0.1)
        assert float(right) - float(left) == pytest.approx(2 * T_1 * pixels, rel=0.01)
    hours = page.page(table()).partition("<h2>hours")[2]
    assert page.INTERVAL not in hours, "one seed has no interval"


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (50.0, 70.0), (64.2, 65.1), (-3.0, 2.0), (7.5, 7.5), (0, 0)])
def test_the_axis_holds_all_figures_between_round_ends(least: float, most: float):
    low, high = page.axis(least, most)
    assert low <= least <= most < high or (least == most == 0 and high > 0)
    assert high - low <= max(4 * (most - least), 2 * most, 1)
