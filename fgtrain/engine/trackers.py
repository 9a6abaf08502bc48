"""Programs that show the metrics of runs: one small writer each, behind `--log`. metrics.jsonl has everything anyway.

A writer has `write(step, values)`, `picture(step, name, file)` and `close(status)`. run.json keeps the ids of a run in
these programs under `tracking`, so that a resumed run continues there.
"""

import secrets
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fgdata.errors import InputError

from ..runs.rundir import RunDir
from ..settings.common import Config
from ..settings.file import flat, to_dict

PROJECT = "fgtrain"
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""A run's status -> mlflow's word for it."""
PARAMETERS = 100
"""mlflow accepts at most this many parameters in one call."""


class Writer(Protocol):
    """One program."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records the metrics of a step."""
        ...

    def picture(self, step: int, name: str, file: Path) -> None:
        """Records a PNG."""
        ...

    def close(self, status: str) -> None:
        """Ends the record. status: done, stopped or failed."""
        ...


class Tensorboard:
    """Event files in the run directory; what an interrupted part of the run wrote after `step` is hidden."""

    def __init__(self, run: RunDir, _: dict[str, Any], step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, file: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(file) as image:
            self.writer.add_image(name, np.array(image.convert("RGB")), step, dataformats="HWC")

    def close(self, status: str) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases. It ignores the steps that a resumed run repeats."""

    def __init__(self, run: RunDir, settings: dict[str, Any], step: int):
        import wandb

        self.wandb: Any = wandb
        ident = remembered(run, "wandb", lambda: secrets.token_hex(8))
        options = {"project": PROJECT, "name": run.path.resolve().name, "id": ident, "resume": "allow"}
        self.run: Any = wandb.init(**options, config=settings, dir=str(run.path))

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def picture(self, step: int, name: str, file: Path) -> None:
        self.run.log({name: self.wandb.Image(str(file))}, step=step)

    def close(self, status: str) -> None:
        self.run.finish(exit_code=int(status == "failed"))


class Trackio:
    """Trackio: a local database, which `trackio show` displays."""

    def __init__(self, run: RunDir, settings: dict[str, Any], step: int):
        import trackio

        self.trackio: Any = trackio
        name = remembered(run, "trackio", lambda: f"{run.path.resolve().name}-{secrets.token_hex(2)}")
        trackio.init(project=PROJECT, name=name, config=settings, resume="allow")

    def write(self, step: int, values: dict[str, float]) -> None:
        self.trackio.log(values, step=step)

    def picture(self, step: int, name: str, file: Path) -> None:
        self.trackio.log({name: self.trackio.Image(str(file))}, step=step)

    def close(self, status: str) -> None:
        self.trackio.finish()


class Mlflow:
    """MLflow, on the server that its environment variables name, else in ./mlruns."""

    def __init__(self, run: RunDir, settings: dict[str, Any], step: int):
        import mlflow

        self.mlflow: Any = mlflow
        known = (run.facts.get("tracking") or {}).get("mlflow")
        mlflow.set_experiment(PROJECT)
        started = mlflow.start_run(**({"run_id": known} if known else {"run_name": run.path.resolve().name}))
        if known is None:
            remembered(run, "mlflow", lambda: started.info.run_id)
            items = list(settings.items())
            for first in range(0, len(items), PARAMETERS):
                mlflow.log_params(dict(items[first : first + PARAMETERS]))

    def write(self, step: int, values: dict[str, float]) -> None:
        self.mlflow.log_metrics(values, step=step)

    def picture(self, step: int, name: str, file: Path) -> None:
        self.mlflow.log_artifact(str(file), artifact_path="pictures")

    def close(self, status: str) -> None:
        self.mlflow.end_run(status=STATUS[status])


WRITERS: dict[str, Callable[[RunDir, dict[str, Any], int], Writer]] = {
    "tensorboard": Tensorboard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}


def remembered(run: RunDir, name: str, make: Callable[[], str]) -> str:
    """The id under `tracking` of run.json; made and noted there at first."""
    known = run.facts.get("tracking") or {}
    if name not in known:
        known = {**known, name: make()}
        run.note(tracking=known)
    return known[name]


def named(config: Config) -> list[str]:
    """The programs that a run's settings name, each once."""
    return list(dict.fromkeys((*config.machine.log, *["tensorboard"] * config.machine.tensorboard)))


def check_trackers(config: Config) -> None:
    """InputError if a package that the settings name is not installed."""
    for name in named(config):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(f"--log {name} needs {name}, which is not installed: pip install {name}") from error


class Trackers:
    """The writers that a run's settings name. A writer that fails later is dropped and reported: training continues."""

    def __init__(self, run: RunDir, config: Config, step: int):
        """InputError when a package cannot start."""
        settings = flat(to_dict(config))
        self.writers: dict[str, Writer] = {}
        for name in named(config):
            try:
                self.writers[name] = WRITERS[name](run, settings, step)
            except Exception as error:  # such as a missing login; each package has its own types
                self.close("failed")
                raise InputError(f"--log {name} could not start: {_reason(error)}. Fix it, or omit it.") from error

    def write(self, step: int, values: dict[str, float]) -> list[str]:
        """Records metrics -> a line for every writer that failed."""
        return self._each(lambda writer: writer.write(step, values))

    def picture(self, step: int, name: str, file: Path) -> list[str]:
        """Records a PNG -> a line for every writer that failed."""
        return self._each(lambda writer: writer.picture(step, name, file))

    def close(self, status: str) -> list[str]:
        """Ends all records -> a line for every writer that failed."""
        return self._each(lambda writer: writer.close(status))

    def _each(self, call: Callable[[Writer], None]) -> list[str]:
        lines = []
        for name, writer in list(self.writers.items()):
            try:
                call(writer)
            except Exception as error:  # of a network, a full disk, or the package itself
                del self.writers[name]
                lines.append(f"{name} failed ({_reason(error)}) and gets no more metrics; metrics.jsonl has them all")
        return lines


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
