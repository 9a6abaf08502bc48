"""Takes back a step whose loss is not finite: weights, buffers and the optimiser's averages are then as before it.

On a GPU nothing is read for that, since reading would wait for it: every step is copied first, and the same operations
take back a bad one and leave a good one as it is, in nine passes over that memory. AdamW counts a step that is taken
back there, for torch keeps its count on the CPU.
"""

# pyright: reportPrivateImportUsage=false
# torch has no public name for operations on many tensors at once.

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .. import parallel

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Guard:
    """Copies what a step may change, and puts it back. Call `save`, `skips`, `take_back` in each step."""

    def __init__(self, objective: nn.Module, optimizer: torch.optim.Optimizer, *, active: bool = True):
        """active: False does nothing."""
        self._optimizer, self._parameters, self._active = optimizer, list(objective.parameters()), active
        self._buffers = [(m._buffers, name) for m in objective.modules() for name in m._buffers]
        self._device = self._parameters[0].device
        self._on_gpu = self._device.type != "cpu"
        self._saved: list[Tensor] = []
        self._finite = torch.tensor(True)

    def save(self) -> None:
        """Before the forward pass. On a CPU it copies only the buffers, which that pass may change."""
        if self._active:
            now = list(self._tensors())
            if [x.shape for x in self._saved] != [x.shape for x in now]:
                self._saved = [torch.empty_like(x) for x in now]
            if now:  # layer norm has no buffers
                torch._foreach_copy_(self._saved, now)

    def skips(self, losses: list[Tensor]) -> bool:
        """(all) After the backward pass, () losses of the step's parts -> whether to leave out the optimiser's step,
        since one of them is not finite in any process. On a GPU always False: it is taken back."""
        if not self._active:
            return False
        self._finite = parallel.gather(torch.stack(losses).isfinite().all().int()[None]).all()
        if self._on_gpu or self._finite:
            return False
        self._saved += [parameter.data.clone() for parameter in self._parameters]  # moving averages may still change
        return True

    def take_back(self) -> None:
        """At the end of the step."""
        if not self._active or (not self._on_gpu and self._finite):
            return
        now = list(self._tensors())
        if not self._on_gpu:
            torch._foreach_copy_(now + [parameter.data for parameter in self._parameters], self._saved)
            return
        saved = self._saved + [torch.zeros_like(x) for x in now[len(self._saved) :]]  # averages that the step has begun
        own, other = ([x.view(_INTEGERS[x.element_size()]) for x in tensors] for tensors in (now, saved))
        torch._foreach_mul_(own, self._finite)  # as integers: 0 times NaN is NaN
        torch._foreach_mul_(other, ~self._finite)
        torch._foreach_add_(own, other)

    def _tensors(self) -> Iterator[Tensor]:
        yield from (x for buffers, name in self._buffers if (x := buffers[name]) is not None)
        if self._on_gpu:
            yield from (parameter.data for parameter in self._parameters)
            for averages in self._optimizer.state.values():
                yield from (x for x in averages.values() if isinstance(x, Tensor) and x.device == self._device)
