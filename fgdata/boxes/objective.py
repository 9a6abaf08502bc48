"""From a saliency map to one box, exactly: CVSA eq. 2 (Wu et al., BMVC 2022) with the scale that the paper leaves open.

A box is (l, t, w, h), float32, in [0, 1] of the image's width and height. On the n x n grid of a solver a box is
(top, bottom, left, right) in whole cells, bottom and right exclusive.

Eq. 2 is the box B with the highest mean saliency, which taken literally is the brightest pixel. In its root form it is
the largest lambda with max_B sum_B (S - lambda) = 0 (Dinkelbach 1967). Both objectives here have that form:

    max-excess   max_B sum_B (S - c mean(S)): lambda kept below the root, so the size follows the object (ours)
    max-mean     max_B mean_B(S) over boxes of at least a given area: lambda raised to the root

Both need one operation: the rectangle with the largest sum among ALL rectangles of at least a given number of cells
(rectangles.py).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from .geometry import WHOLE

FLAT = 1e-6
"""A map that varies by less than this share of its maximum contains only float32 rounding noise."""
CONSTANTS = ("tau", "k", "min_area")
ANY_TAU = 0.75
"""tau for a map of unknown origin; a detector's module states the TAU that suits its maps."""


@dataclass(frozen=True)
class Objective:
    """Which box is chosen from a saliency map.

    An objective uses one of the three constants, named by `constant`. The others are set to their defaults, so two
    objectives that choose the same boxes are equal. InputError if a value is out of range.
    """

    name: Literal["max-excess", "max-mean"] = "max-excess"
    """max-excess: the box with the largest sum of saliency minus tau times the map's mean.
    max-mean: the box with the highest mean saliency among those of at least min_area."""
    tau: float | Literal["own"] = "own"
    """max-excess only: the constant c in sum(S - c mean(S)), 0 to 100. Smaller values give larger boxes. "own": the one
    that suits the detector, see `suit`."""
    k: float = 2.0
    """max-mean without min_area: least area as a multiple, above 0, of the map's effective area (sum S)^2 / sum S^2."""
    min_area: float | None = None
    """max-mean only: least area as a share of the image, in (0, 1]. Default: k times the effective area."""
    grid: int = 64
    """Cells per side of the grid on which boxes are compared, 2 to 256."""

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, allowed: str) -> None:
            if not ok:
                value = getattr(self, field)
                flag = "objective" if field == "name" else field.replace("_", "-")
                raise InputError(f"objective {field} is {value!r}; allowed: {allowed}. Set --{flag}.")

        need(self.name in ("max-excess", "max-mean"), "name", "max-excess, max-mean")
        need(self.tau == "own" or (not isinstance(self.tau, str) and 0 <= self.tau <= 100), "tau", "0 to 100, or own")
        need(0 < self.k < float("inf"), "k", "a number above 0")
        need(self.min_area is None or 0 < self.min_area <= 1, "min_area", "above 0 and at most 1, or unset")
        need(isinstance(self.grid, int) and 2 <= self.grid <= 256, "grid", "a whole number from 2 to 256")
        for unused in {*CONSTANTS} - {self.constant}:
            object.__setattr__(self, unused, getattr(Objective, unused))

    @property
    def constant(self) -> Literal["tau", "k", "min_area"]:
        """The name of the constant that this objective uses."""
        if self.name == "max-excess":
            return "tau"
        return "k" if self.min_area is None else "min_area"

    def suit(self, tau: float) -> "Objective":
        """This objective with a tau of "own" replaced by the given tau of a detector; any other tau is kept."""
        return replace(self, tau=tau) if self.name == "max-excess" and self.tau == "own" else self

    @property
    def settings(self) -> dict[str, Any]:
        """As a manifest records it: without tau if every detector has its own."""
        return {name: value for name, value in asdict(self).items() if value != "own"}

    def override(self, **settings: Any) -> "Objective":
        """This objective with other settings; those that are None are ignored. k also replaces min_area.

        Raises:
            InputError: a value is out of range, or the resulting objective does not use a given constant.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        new = replace(self, **({"min_area": None} if "k" in given else {}) | given)
        for name in CONSTANTS:
            if name in given and name != new.constant:
                flag, other = f"--{name.replace('_', '-')}", "max-excess" if name == "tau" else "max-mean"
                why, instead = f"the objective is {new.name}", f"set --objective {other}"
                if name == "k" and new.constant == "min_area":
                    why, instead = "--min-area replaces it", "omit --min-area"
                value = given[name] if isinstance(given[name], str) else f"{given[name]:g}"
                raise InputError(f"{flag} {value} has no effect: {why}. Omit {flag}, or {instead}.")
        return new


def solve(saliency: np.ndarray, objective: Objective) -> tuple[np.ndarray, str | None]:
    """Finds the box that the objective chooses from a saliency map.

        box, fallback = solve(saliency, Objective("max-excess", tau=0.5))
        left, top, width, height = box * np.tile(rgb.shape[1::-1], 2)  # in pixels

    Args:
        saliency: (H, W) float map, at least 0; any scale.
        objective: The objective; a tau of "own" is ANY_TAU here.

    Returns:
        The box, (4,) float32, and None; or the whole image and "flat" if the map is constant or not finite. Among
        equally good boxes of max-excess, the one with the smallest top, then bottom, then right, then left.
    """
    from .rectangles import best_box, densest_box  # loads numba

    cells = area_average(saliency, objective.grid)  # (n, n) float64
    low, high = cells.min(), cells.max()
    if not np.isfinite(low + high) or high - low <= FLAT * max(abs(low), abs(high)):
        return WHOLE.copy(), "flat"
    if objective.name == "max-excess":
        tau = ANY_TAU if objective.tau == "own" else objective.tau
        rectangle = best_box(cells - tau * cells.mean(), 1)
    else:
        area = objective.min_area
        if area is None:
            area = objective.k * cells.sum() ** 2 / (cells**2).sum() / cells.size
        # The small term keeps a share such as 0.07 * 100 = 7.000000000000001 from requiring one more cell.
        rectangle = densest_box(cells, min(cells.size, max(1, int(np.ceil(area * cells.size - 1e-9)))))
    top, bottom, left, right = rectangle
    return np.array([left, top, right - left, bottom - top], np.float32) / np.float32(objective.grid), None


def area_average(saliency: np.ndarray, n: int) -> np.ndarray:
    """(H, W) -> (n, n) float64: the exact mean of each cell; pixels are unit squares, H and W may be below n.

    OpenCV's INTER_AREA computes the same when it shrinks, but interpolates when it enlarges.
    """
    from .rectangles import average_cells  # loads numba

    return average_cells(np.ascontiguousarray(saliency), n)
