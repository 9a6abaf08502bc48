"""`fgtrain eval all`: every evaluation that fits a run's shard set, with default settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgdata.errors import InputError

from ..printing import say
from ..settings.evaluations import All, Evaluation, Finetune, Knn, Linear, Localization, Retrieval
from . import report
from .subject import Subject


@dataclass(frozen=True)
class Measurement:
    """One evaluation: its flags, the function that runs it, and the options that it gets."""

    flags: type[Evaluation]
    run: Callable[[Any], Any]
    options: dict[str, Any]


MEASUREMENTS = {
    "knn": Measurement(Knn, report.run_knn, {"untrained": True}),
    "retrieval": Measurement(Retrieval, report.run_retrieval, {"untrained": True}),
    "localization": Measurement(Localization, report.run_localization, {"untrained": True}),
    "linear": Measurement(Linear, report.run_linear, {}),
    "finetune": Measurement(Finetune, report.run_finetune, {}),
}
"""The quick ones first."""


def run_all(flags: All) -> list[str]:
    """Runs `fgtrain eval all` and returns the names of the evaluations that were run.

    InputError when none fits the set.
    """
    has_run = Subject.open(flags, ()).checkpoint.run is not None
    done: list[str] = []
    skipped: dict[str, list[str]] = {}  # reason -> evaluations
    for name, measurement in MEASUREMENTS.items():
        if name in flags.skip:
            continue
        common = {"shards": flags.shards, "size": flags.size, "device": flags.device}
        common |= {"weights": flags.weights, "model": flags.model, "results": flags.results}
        # the untrained network of a checkpoint without a run is unknown
        options = measurement.options if has_run or flags.weights is not None else {}
        try:
            measurement.run(measurement.flags(flags.run, **common, **options))
        except InputError as reason:  # of this evaluation, such as a set without true boxes
            skipped.setdefault(str(reason), []).append(name)
        else:
            done.append(name)
    reasons = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} skipped: {reason}"
        for reason, names in skipped.items()
    ]
    if not done:
        raise InputError("\n".join(reasons) or "--skip leaves no evaluation to run. Name fewer evaluations.")
    say(*reasons)
    return done
