"""8-bit batches: views after resize and paste, with the draws that finish them; and what finishes them, on any device.

    views    (V, B, S, S, 3) uint8; also plain and lent (B, S, S, 3), local (L, B, s, s, 3), object (B, s, s, 3)
    NAME.colour, NAME.centre (..., 3, 3) float32, NAME.sigma (...) float32 pixels, NAME.flip, NAME.solarize (...) bool
             A and C of out = A x + C m (geometry.py), and the other draws of each view, except plain's
    masks    (V, B, 4) int32, the masks' rectangles in pixels of the flipped view
    mattes   (V, B, 1, S, S) uint8, 255 where the object is

Everything else is as in a finished batch. The steps and their order are those of `threads`, but the blurred view is not
rounded to 8 bits here.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .spec import ViewSpec

if TYPE_CHECKING:
    from .batch import Work

DRAWS = {"colour": (3, 3), "centre": (3, 3), "sigma": (), "flip": (), "solarize": ()}
"""Fields of a Geometry that finish a view -> their shapes for one view."""


def shapes(spec: ViewSpec) -> dict[str, tuple[int, ...]]:
    """The tensors of an 8-bit batch -> their shapes, with -1 for the number of samples."""
    found, shots = {}, spec.shots
    for name, shape in spec.tensors.items():
        lead = shape[:-3]
        if name in shots:
            found |= {f"{name}.{draw}": lead + end for draw, end in DRAWS.items()}
        if name in shots or name == "plain":
            shape = (*lead, *shape[-2:], 3)
        found[name] = (*lead, 4) if name == "masks" else shape
    return found


def draws(work: "Work", spec: ViewSpec) -> dict[str, np.ndarray]:
    """The arrays of an 8-bit batch that need no pixels, other than those of `Work.arrays`."""
    arrays = {}
    for name, shots in work.shots.items():
        for draw in DRAWS:
            values = np.stack([getattr(shot, draw)[: work.keep] for shot in shots])
            arrays[f"{name}.{draw}"] = values if len(spec.tensors[name]) == 5 else values[0]
    if spec.masks:
        arrays["masks"] = work.masks
    return arrays


class Finisher:
    """Turns 8-bit batches of some views into finished ones, on the device where they are."""

    def __init__(self, spec: ViewSpec, *, compiled: bool = False):
        """compiled: whether to use torch.compile, with a warning where it fails."""
        self._compiled = compiled
        self._size = spec.size
        self._scale = 1 / (255 * torch.tensor(spec.std)[:, None, None])  # (3, 1, 1), from 0 to 255
        self._offset = (-torch.tensor(spec.mean) / torch.tensor(spec.std))[:, None, None]
        self._options = {
            name: (blur_radius(shot), any(shot.chance("solarize", v) for v in range(shot.views)))
            for name, shot in spec.shots.items()
        }

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        finished, device = {}, batch["index"].device
        scale, offset = (constant.to(device, non_blocking=True) for constant in (self._scale, self._offset))
        for name, tensor in batch.items():
            if name in self._options:
                own = (batch[f"{name}.{draw}"] for draw in DRAWS)
                tensor = self._views(tensor, *own, scale, offset, *self._options[name])
            elif name == "plain":
                tensor = tensor.movedim(-1, -3) * scale + offset
            elif name == "masks":
                tensor = paint(tensor, self._size)
            elif name == "mattes":
                tensor = tensor / 255
            if "." not in name:
                finished[name] = tensor
        return finished

    def _views(self, *arguments: Any) -> Tensor:
        if self._compiled:
            try:
                return _compile()(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # this machine has no compiler, or Triton does not know its GPU
                self._compiled = False
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                text = f"torch.compile does not run here ({reason}); views are finished without it, which is slower"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
        return finish(*arguments)


@cache
def _compile() -> Callable[..., Tensor]:
    """`finish` compiled, for all loaders of this process."""
    return torch.compile(finish)


@torch.no_grad()
def finish(
    view: Tensor,
    colour: Tensor,
    centre: Tensor,
    sigma: Tensor,
    flip: Tensor,
    solarize: Tensor,
    scale: Tensor,
    offset: Tensor,
    radius: int,
    solarizes: bool,
) -> Tensor:
    """(..., S, S, 3) uint8, draws of each view -> (..., 3, S, S) float32: blur, A x + C m, clamp, solarisation, flip,
    scale and offset (3, 1, 1) of each channel.

    radius: of the widest blur, 0 for none. solarizes: whether any view may be solarised.
    """
    x = view.movedim(-1, -3).float()
    shift = (centre * x.mean((-2, -1))[..., None, :]).sum(-1)[..., None, None]  # C m, from before the blur
    if radius:
        weights = gaussian(sigma, radius)
        x = blur(blur(x, weights, -2), weights, -1)
    a = colour[..., None, None]  # no matrix product, which a GPU may compute in TF32
    x = a[..., 0, :, :] * x[..., 0:1, :, :] + a[..., 1, :, :] * x[..., 1:2, :, :] + a[..., 2, :, :] * x[..., 2:3, :, :]
    x = (x + shift).clamp(0, 255)
    if solarizes:
        x = torch.where(solarize[..., None, None, None] & (x >= 128), 255 - x, x)
    x = torch.where(flip[..., None, None, None], x.flip(-1), x)
    return x * scale + offset


def gaussian(sigma: Tensor, radius: int) -> Tensor:
    """(...) pixels -> (..., 2 radius + 1): weights over 2 ceil(3 sigma) + 1 pixels, zero beyond; 1 in the middle for
    sigma 0."""
    distance = torch.arange(-radius, radius + 1, device=sigma.device).abs()
    sigma = sigma[..., None]
    weights = torch.exp(-(distance**2) / (2 * sigma.clamp_min(1e-6) ** 2))
    weights = torch.where(distance <= torch.ceil(3 * sigma), weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def blur(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """(..., 3, H, W), (..., K) -> the same shape, weighted along an axis; edges reflected about their pixel."""
    size, radius = x.shape[axis], weights.shape[-1] // 2  # radius < size, as ViewSpec limits sigma
    place = torch.arange(-radius, size + radius, device=x.device).abs()
    wide = x.index_select(axis, torch.minimum(place, 2 * (size - 1) - place))
    weights = weights[..., None, None, None, :]
    total = wide.narrow(axis, 0, size) * weights[..., 0]
    for k in range(1, 2 * radius + 1):
        total = total + wide.narrow(axis, k, size) * weights[..., k]
    return total


def blur_radius(spec: ViewSpec) -> int:
    """Pixels on each side of the widest blur that these views may have; 0 if none is blurred."""
    own = [spec.of(v) for v in range(spec.views)]
    most = max((shot.sigma[1] for v, shot in enumerate(own) if shot.chance("blur", v)), default=0.0)
    return int(np.ceil(3 * np.float32(most * spec.size / 224)))


def paint(rectangles: Tensor, size: int) -> Tensor:
    """(V, B, 4) pixels -> (V, B, 1, size, size) float32: 1 inside each rectangle, 0 outside."""
    x, y, w, h = rectangles.unbind(-1)
    line = torch.arange(size, device=rectangles.device)
    rows = (line >= y[..., None]) & (line < (y + h)[..., None])  # (V, B, size)
    columns = (line >= x[..., None]) & (line < (x + w)[..., None])
    return (rows[:, :, None, :, None] & columns[:, :, None, None, :]).float()
