"""The species of the drawn dataset: a table of field marks with one row per class.

A mark is (shape, colour). A class has five marks: crown, wing, beak, breast, tail. Everything else about a bird (its
body colours, pose, size, place, light) is independent of the class. The table is fixed, so class 7 is the same species
in every dataset, whatever its seed or its number of classes.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0-255
Mark = tuple[str, str]  # (shape, colour name)

COLOURS: dict[str, Colour] = {
    "scarlet": (214, 28, 34),
    "gold": (250, 196, 16),
    "azure": (30, 108, 226),
    "white": (246, 244, 238),
    "black": (24, 22, 26),
    "emerald": (14, 156, 88),
    "violet": (138, 52, 190),
    "orange": (246, 122, 14),
    "rose": (244, 112, 164),
    "bone": (236, 222, 188),
    "cyan": (40, 190, 214),
    "slate": (84, 104, 138),
}

MARKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # part -> its shapes, its colours
    "crown": (
        ("capped", "peaked", "spiked", "fan-crested", "plumed"),
        ("scarlet", "gold", "azure", "white", "black", "emerald", "violet", "orange"),
    ),
    "wing": (("plain", "one-barred", "two-barred"), ("white", "gold", "scarlet", "cyan")),
    "beak": (("cone", "needle", "hook", "dagger"), ("orange", "scarlet", "black", "bone", "slate")),
    "breast": (("plain", "spotted", "streaked", "banded"), ("scarlet", "gold", "azure", "black", "violet", "emerald")),
    "tail": (("short", "long", "forked", "fanned"), ("scarlet", "gold", "azure", "white", "black", "rose", "emerald")),
}
BIRD_OF_BEAK = {"cone": "finch", "needle": "honeybird", "hook": "parrotbill", "dagger": "spearbill"}
LEAST_DIFFERENCE = 3  # parts in which any two classes differ, of five
MOST_CLASSES = 500


@dataclass(frozen=True)
class Species:
    """The field marks of one class."""

    crown: Mark
    wing: Mark
    beak: Mark
    breast: Mark
    tail: Mark

    @property
    def marks(self) -> tuple[Mark, ...]:
        return self.crown, self.wing, self.beak, self.breast, self.tail

    @property
    def name(self) -> str:
        """`Scarlet-peaked_Gold-spotted_Two-barred_Fork-tailed_Finch`: unique, although it omits some colours."""
        wing = "" if self.wing[0] == "plain" else f"{self.wing[0]}_"
        breast = "breasted" if self.breast[0] == "plain" else self.breast[0]
        tail = {"short": "short", "long": "long", "forked": "fork", "fanned": "fan"}[self.tail[0]]
        words = f"{self.crown[1]}-{self.crown[0]}_{self.breast[1]}-{breast}_{wing}{tail}-tailed"
        return "_".join(word.capitalize() for word in f"{words}_{BIRD_OF_BEAK[self.beak[0]]}".split("_"))


def species(count: int) -> tuple[Species, ...]:
    """The first `count` species (at most MOST_CLASSES)."""
    return _table()[:count]


@cache
def _table() -> tuple[Species, ...]:
    """A fixed random stream of rows. Rows that differ enough from all previous ones are kept, so a longer table would
    start with this one."""
    rng = np.random.Generator(np.random.Philox(key=1758))  # an arbitrary key: the year of Linnaeus's bird names
    table: list[Species] = []
    names: set[str] = set()
    rows = np.full((MOST_CLASSES, len(MARKS), 2), -1)  # shape, colour
    while len(table) < MOST_CLASSES:
        row = np.array([(rng.integers(len(shapes)), rng.integers(len(colours))) for shapes, colours in MARKS.values()])
        marks = {part: (shapes[s], colours[c]) for (part, (shapes, colours)), (s, c) in zip(MARKS.items(), row)}
        if marks["wing"][0] == "plain":
            marks["wing"], row[list(MARKS).index("wing")] = ("plain", ""), 0
        kind = Species(**marks)
        differing = (rows[: len(table)] != row).any(2).sum(1)  # parts, per species so far
        if kind.name not in names and (differing >= LEAST_DIFFERENCE).all():
            rows[len(table)] = row
            table.append(kind)
            names.add(kind.name)
    return tuple(table)
