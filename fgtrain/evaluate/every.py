"""`fgtrain eval all`: every evaluation that fits a run's shard set, with default settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgdata.errors import InputError

from ..printing import say
from ..settings.evaluations import All, Evaluation, Finetune, Knn, Linear, Localization, Retrieval
from . import report
from .localization import true_boxes
from .probe import labels_of
from .subject import Subject

BOTH = ("train", "test")


@dataclass(frozen=True)
class Measurement:
    """One evaluation: the splits that it reads, and the function that runs it."""

    splits: tuple[str, ...]
    flags: type[Evaluation]
    run: Callable[[Any], Any]
    options: dict[str, Any]


MEASUREMENTS = {
    "knn": Measurement(BOTH, Knn, report.run_knn, {"untrained": True}),
    "retrieval": Measurement(("test",), Retrieval, report.run_retrieval, {"untrained": True}),
    "localization": Measurement(BOTH, Localization, report.run_localization, {"untrained": True}),
    "linear": Measurement(BOTH, Linear, report.run_linear, {}),
    "finetune": Measurement(BOTH, Finetune, report.run_finetune, {}),
}
"""The quick ones first."""


def run_all(flags: All) -> list[str]:
    """Runs `fgtrain eval all` and returns the names of the evaluations that were run.

    InputError when none fits the set.
    """
    Subject.open(flags, ())
    done: list[str] = []
    skipped: dict[str, list[str]] = {}  # reason -> evaluations
    for name, measurement in MEASUREMENTS.items():
        if name in flags.skip:
            continue
        if reason := unfit(name, flags):
            skipped.setdefault(reason, []).append(name)
            continue
        common = {"shards": flags.shards, "size": flags.size, "device": flags.device}
        common |= {"weights": flags.weights, "model": flags.model, "results": flags.results}
        options = measurement.options
        if "untrained" in options and flags.weights is None and Subject.open(flags, ()).checkpoint.run is None:
            options = {}
        try:
            measurement.run(measurement.flags(flags.run, **common, **options))
        except InputError as reason:  # of this evaluation, such as fewer images than neighbours
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


def unfit(name: str, flags: Evaluation) -> str:
    """Why an evaluation cannot be run on the set, as its own error says it; "" if it can."""
    try:
        subject = Subject.open(flags, MEASUREMENTS[name].splits)
        if name == "localization":
            true_boxes(subject.shards, "test")
        if name != "retrieval":
            subject.check_classes(*(labels_of(subject.shards, split) for split in BOTH))
    except InputError as reason:
        return str(reason)
    return ""
