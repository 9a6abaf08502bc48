"""The encoder that fgtrain gives fgdata for `fgdata coreset`: `fgtrain:WEIGHTS`, one of our runs or a weights file.

fgdata finds the row through the entry points of this distribution (pyproject.toml), like that of another plug-in
(docs/extending.md). Only opening an encoder imports torch.
"""

from fgdata.selection import EncoderRow

FEATURES = EncoderRow(
    f"{__name__}.frozen", "features of a network on the test-time view; WEIGHTS: a run, or FILE,backbone=NAME"
)
ENCODERS = {"fgtrain:WEIGHTS": FEATURES}
"""By the names of their entry points."""
