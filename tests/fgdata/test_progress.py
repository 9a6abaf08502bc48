"""The line of progress that is printed where there is no terminal."""

import pytest

from fgdata import progress


@pytest.mark.parametrize(
    ("images", "seconds", "line"),
    [
        (50, 20.0, "Building: 50 of 100 images, 2 images/s, 20 s left"),
        (4, 50.0, "Building: 4 of 100 images, 12.5 s/image, 1,200 s left"),
    ],
)
def test_a_slow_rate_is_in_seconds_per_image(monkeypatch, capsys, images, seconds, line):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with progress.Progress("Building", 100) as shown:
        now[0] += seconds
        shown.advance(images)
    assert capsys.readouterr().err == f"{line}\n"
