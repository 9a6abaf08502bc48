"""Boxes that the caller sets during training, in place of the detector's (`Loader.set_boxes`)."""

import hashlib

import numpy as np

from ..errors import InputError


class Given:
    """The boxes that are in force in each epoch; none before the first call of `set`."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, np.ndarray]] = []  # first epoch, boxes

    def set(self, boxes: np.ndarray, samples: int, first: int) -> None:
        """Sets the boxes (N, 4) of all samples from epoch `first` on. InputError if they are not boxes."""
        array = np.array(boxes, np.float32)
        if array.shape != (samples, 4):
            raise InputError(f"The boxes have shape {array.shape}; allowed: ({samples}, 4), one for each sample.")
        inside = (array[:, :2] >= 0) & (array[:, 2:] > 0) & (array[:, :2] + array[:, 2:] <= 1 + 1e-6)
        if not inside.all():  # also for NaN
            row = int(np.argmin(inside.all(1)))
            raise InputError(
                f"The box of sample {row} is {array[row].tolist()}; allowed: left, top, width and height in [0, 1], "
                "with an area, inside the image."
            )
        self._entries = [entry for entry in self._entries if entry[0] < first][-1:] + [(first, array)]

    def at(self, epoch: int) -> np.ndarray | None:
        """(N, 4) float32, the boxes in force in an epoch."""
        return next((boxes for first, boxes in reversed(self._entries) if first <= epoch), None)

    def digest(self, epoch: int) -> str | None:
        """The sha256 of the boxes in force in an epoch."""
        boxes = self.at(epoch)
        return None if boxes is None else hashlib.sha256(boxes.tobytes()).hexdigest()
