"""One nn.Module per method, built from its config, the number of training images and that of classes: see `Objective`.

Banks, queues and moving averages are buffers or parameters of the module, so checkpoints include them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..settings.common import Config

if TYPE_CHECKING:
    import torch

    from fgdata.shards.reader import ShardSet
    from fgdata.views import Loader, ViewSpec

    from ..networks.encoder import Encoder
    from ..networks.optim import Rates
    from ..runs.rundir import RunDir


class Objective(Protocol):
    """The interface of a training objective, an nn.Module, that the trainer uses."""

    views: "ViewSpec"
    """The views that the loader must deliver."""
    accumulates: bool
    """Whether gradients accumulated over parts of a batch equal those of the whole batch."""
    rates: "Rates"
    """Prefix of parameter names -> factor on their learning rate, or "constant": it stays at its peak.

    The module, or one in it, may also have `remarks`: lines that are printed before the first step of a run.
    """

    @property
    def encoder(self) -> "Encoder":
        """The network that the run saves."""
        ...

    def forward(
        self, batch: "dict[str, torch.Tensor]", progress: float
    ) -> "tuple[torch.Tensor, dict[str, torch.Tensor]]":
        """A batch of the loader, progress in [0, 1] -> loss (), logs of () tensors. The only call under autograd."""
        ...

    def after_step(self, progress: float) -> None:
        """Updates moving averages and queues. Called after every optimiser step."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """An objective that needs preparation before the first step of a new run."""

    def prepare(
        self,
        run: "RunDir",
        shards: "ShardSet",
        device: "torch.device",
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Called on the first process only, or on all if the class says `prepared_by_all = True`. Saves its state and
        returns early when `stop()` is true.

        `say` prints one line of progress.
        """
        ...


@runtime_checkable
class BetweenEpochs(Protocol):
    """An objective that reports between two epochs."""

    def after_epoch(self, epoch: int, loader: "Loader", say: "Callable[[str], None]") -> None:
        """Called on all processes after every complete epoch, before its checkpoint. `epoch` counts complete epochs.

        `say` prints a line. Boxes of the network itself need no objective: fgtrain/engine/refresh.py.
        """
        ...


def build(config: Config, samples: int, classes: int = 0) -> Any:
    """Builds the objective of a config, on the CPU. Initial weights depend only on the seed and --init.

    `samples` is the number of training images, `classes` that of the shard set's classes; only a method that needs
    labels gets the latter. InputError when --init, --init-heads or --decoder cannot be used.
    """
    import torch

    module, name = config.objective.split(":")
    with torch.random.fork_rng(devices=[]):  # saving the GPU states too would initialise every GPU
        torch.default_generator.manual_seed(config.seed)
        labelled = (classes,) if "labels" in config.needs else ()
        objective = getattr(import_module(module), name)(config, samples, *labelled)
    if config.init_heads and config.init:  # "": a checkpoint brings them
        from .inherit import load_heads

        objective.encoder.origin += f"\n{load_heads(objective, objective.encoder, Path(config.init))}"
    return objective.to(memory_format=torch.channels_last)


def normalise(objective: Any, state: Mapping[str, Any]) -> None:
    """Gives the views and encoders of an objective the mean and std in the state of a checkpoint: they may be those of
    the weights that --init named, which are not read again. Does nothing for a state without them."""
    from ..networks.encoder import Encoder

    if "normalisation" not in state:
        return
    mean, std = state["normalisation"]
    objective.views = replace(objective.views, mean=mean, std=std)
    for module in objective.modules():
        if isinstance(module, Encoder):
            module.mean, module.std = mean, std
