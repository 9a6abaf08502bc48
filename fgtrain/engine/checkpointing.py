"""Checkpoints of a training: all of its state, exact resumption, and the start of a run that extends another.

Functions marked (all) must be called by all processes at the same point.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fgdata.errors import InputError

from .. import parallel
from ..networks import optim
from ..runs.files import raise_system_error
from ..runs.rundir import RunDir
from ..settings.common import Optim
from ..settings.file import blocks_extend, build, differences, relevant

if TYPE_CHECKING:
    from .trainer import Trainer


def save(trainer: "Trainer") -> None:
    """(all) Writes a checkpoint, after checking that everything in it is finite."""
    trainer.check()
    trainer.check_weights()
    model, state, views = trainer.objective.encoder.model, state_of(trainer), trainer.objective.views
    about: dict[str, Any] = {"backbone": model.backbone, "width": str(model.width), "stem": model.stem}
    about |= {"drop_path": model.drop_path} if model.drop_path else {}
    about |= {name: count for name in ("attend", "parts") if (count := getattr(model, name))}
    about |= {"mean": views.mean, "std": views.std}
    about |= {"size": str(trainer.config.views.size), "step": str(trainer.step), "method": trainer.config.method}
    about |= {"settings": relevant(trainer.config)}
    with parallel.together():
        if trainer.first:
            keep = trainer.config.machine.keep_last
            trainer.run.save_checkpoint(trainer.step, trainer.objective.encoder, about, state, keep)
            trainer.run.note(checkpoint=trainer.step)


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """(all) All that `restore` needs; `ranks` lists the state of each process."""
    rng = {"cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(trainer.device)
    pending = [{k: v.cpu() for k, v in logs.items()} for logs in trainer.pending]
    return {
        "step": trainer.step,
        "objective": trainer.objective.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "left_out": list(trainer.left_out.steps),
        "loader": trainer.loader.state_dict(),
        "normalisation": (trainer.objective.views.mean, trainer.objective.views.std),
        "boxes": trainer.refresh.boxes if trainer.refresh else None,
        "settings": relevant(trainer.config),
        "ranks": parallel.collect({"rng": rng, "pending": pending, "indices": [i.cpu() for i in trainer.indices]}),
    }


def restore(trainer: "Trainer", state: dict[str, Any], checkpoint: Path) -> None:
    """Loads the state of a checkpoint. InputError, naming the checkpoint, if it does not fit this fgtrain."""
    with _fits(checkpoint):
        _load(trainer, state, trainer.optimizer)
        trainer.loader.load_state_dict(state["loader"], any_ranks=True)  # lifecycle.py warns
        _load_random(trainer, state)
        own = state["ranks"][parallel.rank() % len(state["ranks"])]
        trainer.pending = [
            {k: v if k == "lr" else v.to(trainer.device) for k, v in logs.items()} for logs in own["pending"]
        ]
        trainer.indices = [i.to(trainer.device) for i in own["indices"]]
        trainer.step, trainer.left_out.steps = state["step"], list(state.get("left_out", []))


def find_extended(path: Path) -> Path:
    """The last checkpoint of the run that --extend names. InputError when it has none."""
    last = RunDir(path).last_checkpoint
    if last is None:
        raise InputError(f"--extend {path} has no checkpoint. Name a run that has finished an epoch.")
    return last


def extend(trainer: "Trainer", state: dict[str, Any], checkpoint: Path) -> str:
    """Continues the training of another run with a new schedule, at the start of an epoch -> a line that says so.

    `state` is that of its last checkpoint. The settings of the optimiser are those of this run, with the old averages
    of each parameter. With another seed the random draws are those of the new one. InputError when that run has
    settings that this training cannot continue.
    """
    path = trainer.config.extend
    assert path is not None
    old, new = state.get("settings") or relevant(RunDir(path).config()), relevant(trainer.config)
    if changed := blocks_extend(differences(old, new)):
        raise InputError(
            f"--extend {path}: {', '.join(changed)} differ from that run; allowed to differ: epochs, seed and "
            f"optim, except optim.name. Use its settings: --config {path / 'config.json'}"
        )
    settings = {k.removeprefix("optim."): v for k, v in old.items() if k.startswith("optim.")}
    theirs = optim.build(trainer.objective, build(Optim, settings, str(checkpoint)), trainer.objective.rates)
    with _fits(checkpoint):
        _load(trainer, state, theirs)
        trainer.optimizer.state.update(theirs.state)  # by parameter, since the groups may be others
        loader = state["loader"]
        epoch, identity = loader["epoch"] + (loader["batch"] > 0), {**loader["loader"], "seed": trainer.config.seed}
        trainer.loader.load_state_dict({**loader, "epoch": epoch, "batch": 0, "loader": identity}, any_ranks=True)
        if old["seed"] == trainer.config.seed:
            _load_random(trainer, state)
    return f"extends {path}: weights, heads and optimiser of its step {state['step']:,}, with a new schedule"


def _load(trainer: "Trainer", state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """The networks, banks and boxes of a checkpoint, and the state of its optimiser into `optimizer`."""
    trainer.objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty without fp16
        trainer.scaler.load_state_dict(state["scaler"])
    if trainer.refresh and (boxes := state.get("boxes")) is not None:
        trainer.refresh.restore(boxes, trainer.loader)


def _load_random(trainer: "Trainer", state: dict[str, Any]) -> None:
    """The state of the random generators of this process, or a new one for a process that the run did not have."""
    ranks, rank = state["ranks"], parallel.rank()
    if rank >= len(ranks):
        torch.manual_seed(parallel.own_seed(trainer.config.seed, state["step"]))
        return
    torch.set_rng_state(ranks[rank]["rng"]["cpu"])
    if trainer.device.type == "cuda" and "cuda" in ranks[rank]["rng"]:
        torch.cuda.set_rng_state(ranks[rank]["rng"]["cuda"], trainer.device)


@contextmanager
def _fits(checkpoint: Path) -> Iterator[None]:
    """InputError, naming the checkpoint, if the block finds that its state does not fit this fgtrain."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise_system_error(str(checkpoint / "state.pt"), error)
        raise InputError(
            f"{checkpoint / 'state.pt'} does not fit this fgtrain ({str(error).splitlines()[0]}). Resume with the "
            "version that wrote it (run.json has its commit and versions), or start a new run with another --out."
        ) from error
