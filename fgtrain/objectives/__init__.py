"""One nn.Module per method, made from its config and the number of training images: see `Objective`.

Banks, queues and moving averages are buffers or parameters of the module, so a checkpoint holds them.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..settings.common import Config

if TYPE_CHECKING:
    import torch

    from fgdata.shards.reader import ShardSet
    from fgdata.views import ViewSpec

    from ..networks.encoder import Encoder
    from ..runs.rundir import RunDir


class Objective(Protocol):
    """What the trainer asks of an nn.Module that is a training objective."""

    views: "ViewSpec"
    """What the loader must deliver."""
    accumulates: bool
    """Whether the parts of a batch make the same objective as the batch."""
    constant_rate: tuple[str, ...]
    """Prefixes of the parameters whose learning rate stays at its peak."""

    @property
    def encoder(self) -> "Encoder":
        """What the run keeps."""
        ...

    def forward(
        self, batch: "dict[str, torch.Tensor]", progress: float
    ) -> "tuple[torch.Tensor, dict[str, torch.Tensor]]":
        """A batch of the loader, progress from 0 to 1 -> loss (), logs of () tensors. The only call under autograd."""
        ...

    def after_step(self, progress: float) -> None:
        """Moves the averages, after every optimiser step."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """An objective with work to do before the first step of a new run."""

    def prepare(
        self,
        run: "RunDir",
        shards: "ShardSet",
        device: "torch.device",
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Runs on the first process alone; returns early, its state saved, when `stop()` is true."""
        ...


def build(config: Config, samples: int) -> Any:
    """The objective of a config, its initial weights decided by the seed alone. `samples`: images of the split."""
    import torch

    module, name = config.objective.split(":")
    with torch.random.fork_rng(devices=[]):  # all is made on the CPU; saving the states of GPUs would wake every one
        torch.default_generator.manual_seed(config.seed)
        objective = getattr(import_module(module), name)(config, samples)
    return objective.to(memory_format=torch.channels_last)
