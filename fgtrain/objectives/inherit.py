"""--init-heads: a new run starts with the heads and moving averages of another run, besides its encoder."""

from pathlib import Path

from torch import Tensor, nn

from fgdata.errors import InputError

from ..networks.norm import batch_norms
from ..runs.checkpoint import Checkpoint
from ..runs.state import load_state

BASE = "base."
"""Prefix of the contrastive base in a method that adds terms to one: `byol` and `cvsa` have the same heads."""


def load_heads(objective: nn.Module, encoder: nn.Module, run: Path) -> str:
    """Copies into `objective` each part of the last checkpoint of `run` whose tensors all have the same names and
    shapes, apart from the encoder -> a line that says which. Queues and banks stay empty: they hold features of images.

    InputError when `run` has no checkpoint with heads, or none that fits.
    """
    try:
        checkpoint = Checkpoint.find(run)
        stored = load_state(checkpoint.file.parent).get("objective", {})
    except InputError as fault:
        reason = str(fault).split(". ")[0]
        raise InputError(
            f"--init-heads takes the heads of a run, but --init is {run}: {reason}. Name the run directory, or omit "
            "--init-heads."
        ) from None
    theirs = {name.removeprefix(BASE): value for name, value in stored.items()}
    loaded, random = [], []
    for part, tensors in _parts(objective, encoder).items():
        values = {name: theirs[short] for name in tensors if (short := name.removeprefix(BASE)) in theirs}
        if len(values) == len(tensors) and all(value.shape == tensors[name].shape for name, value in values.items()):
            loaded.append(part)
            for name, value in values.items():
                tensors[name].data.copy_(value)
        else:
            random.append(part)
    if not loaded:
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in theirs))
        raise InputError(
            f"--init-heads: no part of this method ({', '.join(random)}) has the names and shapes of one in "
            f"{checkpoint.file.parent} ({known}). Omit --init-heads to start from its encoder only."
        )
    rest = f"; random, because that run has none of these shapes: {', '.join(random)}" if random else ""
    return f"heads of {run}, step {checkpoint.step:,}: {', '.join(loaded)}{rest}"


def _parts(objective: nn.Module, encoder: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Part, such as predictor -> its weights and batch-norm statistics by name; without the encoder."""
    statistics = {id(buffer) for layer in batch_norms(objective) for buffer in layer.buffers()}
    own = {id(x) for x in (*encoder.parameters(), *encoder.buffers())}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in objective.state_dict(keep_vars=True).items():
        learned = isinstance(value, nn.Parameter) or id(value) in statistics
        if learned and id(value) not in own:
            part = name.removeprefix(BASE).partition(".")[0]
            parts.setdefault(part, {})[name] = value
    return parts
