"""Steps that were left out because their loss was not finite, and the error of a run that has too many of them."""

from collections.abc import Callable

from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet, meta

from .. import parallel
from ..runs.rundir import RunDir
from ..settings.common import Config

MOST_NAMED = 16  # samples named in a message; log.txt names all


class LeftOut:
    """The steps without an update."""

    def __init__(self, config: Config, run: RunDir, shards: ShardSet, steps_per_epoch: int):
        self.limit, self.run, self.steps_per_epoch = config.optim.skip_nonfinite, run, steps_per_epoch
        self.split = shards.split(config.data.split)
        self.steps: list[int] = []
        self.say: Callable[[str], None] = lambda line: None

    @property
    def is_full(self) -> bool:
        """Whether the next one ends the run."""
        return len(self.steps) >= self.limit

    def add(self, step: int, loss: float, numbers: list[int]) -> None:
        """(all) Notes that a step had no update. InputError if it may not be left out. numbers: its samples."""
        what = f"The loss became {loss}"
        if self.is_full:
            if self.steps:
                before = f"{counted(len(self.steps), 'step')} without an update ({str(self.steps)[1:-1]})"
                what = f"After {before}, the loss became {loss}"
            with parallel.together():
                raise self.fault(what, step, numbers)
        self.steps.append(step)
        if parallel.rank() == 0:
            self.run.log(f"samples of step {step}: {', '.join(self.names(numbers))}")
        allowed = f"{self.limit} such step{'s' * (self.limit > 1)}"
        self.say(f"{what} at step {step:,}, which has no update. At most {allowed} (--optim.skip-nonfinite).")

    def fault(self, what: str, step: int, numbers: list[int]) -> InputError:
        """The error of a loss or of weights that are not finite at a step. numbers: its samples in the split."""
        last, ids = self.run.last_checkpoint, self.names(numbers)
        named = ", ".join(ids[:MOST_NAMED])
        if len(ids) > MOST_NAMED:
            named += f" and {len(ids) - MOST_NAMED:,} more, all in {self.run.path / 'log.txt'}"
        if parallel.rank() == 0:
            self.run.log(f"samples of step {step}: {', '.join(ids)}")
        return InputError(
            f"{what} at step {step:,} (epoch {(step - 1) // self.steps_per_epoch + 1}). "
            f"Last complete checkpoint: {last.name if last else 'none'}. A lower --optim.lr usually helps.\n"
            f"Samples of that step: {named}"
        )

    def names(self, numbers: list[int]) -> list[str]:
        """The ids of samples of the split."""
        return [str(meta(self.split.read(number, without="jpg"))["id"]) for number in numbers]
