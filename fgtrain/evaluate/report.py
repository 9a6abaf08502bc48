"""Each `fgtrain eval`: checks its settings, measures, prints a table, and appends to the run's results.jsonl."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fgdata.boxes.geometry import CENTRED, WHOLE, iou
from fgdata.errors import counted
from fgdata.views import ViewSpec

from ..networks.saved import load_encoder
from ..settings.common import need
from ..settings.evaluations import Finetune, Knn, Linear, Localization, Retrieval
from . import finetune, linear, localization, probe, retrieval
from .intervals import mean_interval, percent
from .subject import Subject, append, read_lines

CONSOLE = Console(highlight=False)
BOTH = ("train", "test")


def run_knn(flags: Knn) -> dict[str, Any]:
    """Runs `fgtrain eval knn` and returns its record."""
    subject, k, temperature = Subject.open(flags, BOTH), flags.k, flags.temperature
    bank = subject.shards.splits["train"]
    need(1 <= k <= bank, "k", k, f"1 to {bank:,}, the images of the train split")
    need(0 <= temperature < float("inf"), "temperature", temperature, "0 or more")
    right = {
        name: probe.knn(encoder, subject.shards, subject.size, subject.device, k, temperature)
        for name, encoder in subject.encoders(flags.untrained).items()
    }
    table = new_table(f"kNN, k = {k}, {subject.size} px", "encoder", "test accuracy", "standard error", "n")
    for name, r in right.items():
        s = probe.score(r)
        table.add_row(name, f"{s['accuracy']:.1%}", f"{s['standard_error']:.1%}", f"{s['n']:,}")
    say(table, f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)")
    values = probe.score(right[subject.name]) | {"k": k, "temperature": temperature, "chance": subject.chance}
    return subject.record("knn", **values, **report_gain(right, "accuracy"))


def run_linear(flags: Linear) -> list[dict[str, Any]]:
    """Runs `fgtrain eval linear` and returns one record per fraction of the labels."""
    subject = Subject.open(flags, BOTH)
    cache, fractions, trials, epochs = flags.cache, flags.fractions, flags.trials, flags.epochs
    for fraction in fractions:
        need(0 < fraction <= 1, "fractions", f"{fraction:g}", "fractions of the labels, above 0 and at most 1")
    need(bool(fractions), "fractions", "empty", "one fraction of the labels or more")
    need(trials >= 1, "trials", trials, "1 or more")
    need(epochs is None or epochs >= 1, "epochs", epochs, "1 or more")
    protocol = linear.PROTOCOLS[flags.protocol]
    protocol = protocol if epochs is None else replace(protocol, epochs=epochs)
    options = subject.shards, subject.size, subject.device, protocol, cache, fractions, trials, flags.seed
    results = linear.linear(load_encoder(subject.checkpoint), *options)
    crops = "central squares, features computed once" if cache else "random crops"
    title = f"linear, {flags.protocol}, {counted(protocol.epochs, 'epoch')}, {crops}, {subject.size} px"
    table = new_table(f"{title}: {subject.name}", "labels", "test accuracy, %", "trials", "learning rate", "n")
    records = []
    for fraction, each in results.items():
        accuracies = [right.float().mean().item() for right, _ in each]
        rates = sorted({rate for _, rate in each}, reverse=True)
        n = len(each[0][0])
        rates_text = ", ".join(f"{rate:g}" for rate in rates)
        table.add_row(f"{fraction:.0%}", percent(accuracies), str(trials), rates_text, f"{n:,}")
        values = spread(accuracies, n) | {"protocol": flags.protocol, "cache": cache, "fraction": fraction}
        values |= {"epochs": protocol.epochs, "trials": trials, "seed": flags.seed}
        records.append(values | {"lrs": [rate for _, rate in each], "chance": subject.chance})
    say(table, f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)")
    explain_interval(trials)
    return [subject.record("linear", **values) for values in records]


def run_finetune(flags: Finetune) -> dict[str, Any]:
    """Runs `fgtrain eval finetune` and returns its record.

    Every finished fit is a line in the run's finetune.jsonl, so a rerun resumes after the last finished fit.
    """
    subject = Subject.open(flags, BOTH)
    journal = None if subject.checkpoint.run is None else subject.checkpoint.run.path / "finetune.jsonl"
    setting = {"step": subject.checkpoint.step, "digest": subject.shards.manifest["digest"], "size": subject.size}
    setting |= {"epochs": flags.epochs, "batch_size": flags.batch_size}
    done = {} if journal is None else {_key(line): line["accuracy"] for line in read_lines(journal)}
    searches = len(flags.rates) * len(flags.decays)
    searches = searches if searches > 1 else 0
    count = 0

    def finish(fit: finetune.Fit, train: Callable[[], float]) -> float:
        nonlocal count
        count += 1
        line: dict[str, Any] = {**asdict(fit), **setting}
        reused, start = _key(line) in done, time.monotonic()
        accuracy = done[_key(line)] if reused else train()
        if journal is not None and not reused:
            append(journal, {**line, "accuracy": accuracy})
        where = "of the held-out part of train" if fit.search else "of test"
        say(
            f"{count} of {searches + flags.trials}: lr {fit.rate:g}, weight decay {fit.decay:g}, seed {fit.seed}: "
            f"{accuracy:.1%} {where}" + (" (from finetune.jsonl)" if reused else f", {time.monotonic() - start:.0f} s")
        )
        return accuracy

    best, accuracies = finetune.tune(
        lambda: load_encoder(subject.checkpoint), subject.shards, subject.size, subject.device, flags, finish
    )
    n = subject.shards.splits["test"]
    title = f"fine-tuned, {counted(flags.epochs, 'epoch')}, batch {flags.batch_size}, {subject.size} px"
    table = new_table(title, "encoder", "test accuracy, %", "trials", "learning rate", "weight decay", "n")
    chosen = (f"{best.rate:g}", f"{best.decay:g}")
    table.add_row(subject.name, percent(accuracies), str(flags.trials), *chosen, f"{n:,}")
    say(table, f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)")
    explain_interval(flags.trials)
    values = spread(accuracies, n) | {"trials": flags.trials, "seed": flags.seed, "epochs": flags.epochs}
    values |= {"batch_size": flags.batch_size, "rates": flags.rates, "decays": flags.decays}
    return subject.record("finetune", **values, lr=best.rate, weight_decay=best.decay, chance=subject.chance)


def run_retrieval(flags: Retrieval) -> dict[str, Any]:
    """Runs `fgtrain eval retrieval` and returns its record."""
    subject = Subject.open(flags, ("test",))
    views = ViewSpec.evaluation(subject.size)
    results = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        features, labels, _ = probe.embed(encoder, subject.shards, "test", views, subject.device)
        results[name] = retrieval.retrieve(features.to(subject.device), labels)
    table = new_table(f"retrieval, {subject.size} px", "encoder", "rank-1", "rank-5", "mAP", "queries")
    for name, r in results.items():
        table.add_row(
            name, mean_and_error(r.rank(1)), mean_and_error(r.rank(5)), mean_and_error(r.precision), f"{len(r.first):,}"
        )
    r = results[subject.name]
    alone = len(labels) - len(r.first)
    say(table, f"± one standard error. mAP of a random ranking: {r.chance.mean():.1%}")
    if alone:
        say(f"{alone:,} images are the only one of their class: they are in the gallery and are not queries.")
    values = {"rank1": float(r.rank(1).mean()), "rank5": float(r.rank(5).mean()), "map": float(r.precision.mean())}
    values |= {"map_standard_error": standard_error(r.precision), "map_chance": float(r.chance.mean())}
    values |= {"n": len(r.first)}
    right = {name: torch.from_numpy(each.precision) for name, each in results.items()}
    return subject.record("retrieval", **values, **report_gain(right, "mAP"))


def run_localization(flags: Localization) -> dict[str, Any]:
    """Runs `fgtrain eval localization` and returns its record."""
    subject = Subject.open(flags, BOTH)
    true_boxes = localization.true_boxes(subject.shards, "test")
    results = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        options = subject.shards, subject.size, subject.device, flags.seed, true_boxes
        maps, truth = localization.activation_maps(encoder, *options)
        results[name] = localization.overlaps(maps, truth, subject.size)
    title = f"localization by class-activation maps, {subject.size} px"
    table = new_table(title, "boxes", "MaxBoxAcc", "at threshold", "MaxBoxAccV2", "n")
    for name, o in results.items():
        share, at = mean_and_error(o.hits), f"{localization.THRESHOLDS[o.best]:.2f}"
        table.add_row(name, share, at, f"{o.v2:.1%}", f"{len(o.hits):,}")
    baselines = {}
    for name, row, box in (("centred", "centred 70 % box", CENTRED), ("whole", "whole image", WHOLE)):
        meets = np.array([iou(box, boxes).max() for boxes in truth])
        baselines[name] = float((meets >= 0.5).mean())
        v2 = np.mean([(meets >= overlap).mean() for overlap in localization.OVERLAPS])
        table.add_row(row, f"{baselines[name]:.1%}", "", f"{v2:.1%}")
    say(table, "± one standard error. MaxBoxAcc is defined at the best threshold for these images.")
    o = results[subject.name]
    values = {"maxboxacc": float(o.hits.mean()), "maxboxacc_standard_error": standard_error(o.hits)}
    values |= {
        "maxboxaccv2": o.v2,
        "n": len(o.hits),
        "threshold": float(localization.THRESHOLDS[o.best]),
        **baselines,
        "seed": flags.seed,
    }
    right = {name: torch.from_numpy(each.hits) for name, each in results.items()}
    return subject.record("localization", **values, **report_gain(right, "MaxBoxAcc"))


def new_table(title: str, first: str, *columns: str) -> Table:
    """An empty table whose first column folds long names; the others are right-aligned figures."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def say(*parts: Table | str) -> None:
    """Prints tables, and lines that are not wrapped."""
    for part in parts:
        CONSOLE.print(part, soft_wrap=isinstance(part, str))


def standard_error(values: np.ndarray) -> float:
    """(n,) -> the standard error of their mean."""
    return float(values.std() / len(values) ** 0.5)


def mean_and_error(values: np.ndarray) -> str:
    """(n,) fractions of one -> "64.3% ± 1.2", the mean and its standard error."""
    return f"{values.mean():.1%} ± {100 * standard_error(values):.1f}"


def spread(accuracies: Sequence[float], n: int) -> dict[str, Any]:
    """Accuracies of the trials on n test samples -> what a record holds: mean, its interval over trials, and each."""
    mean, half = mean_interval(accuracies)
    return {"accuracy": mean, "interval_half": half, "standard_error": (mean * (1 - mean) / n) ** 0.5, "n": n} | {
        "accuracies": list(accuracies)
    }


def explain_interval(trials: int) -> None:
    """Prints what ± means, when there are several trials."""
    if trials > 1:
        say(f"± half the 95 % interval of the mean over {trials} trials (Student's t).")


def report_gain(figures: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """Encoder -> (n,) figures of the same samples: prints the gain of the first over the second, the untrained one.

    Returns the keys that the record gets; {} when only one encoder was evaluated.
    """
    if len(figures) < 2:
        return {}
    trained, untrained = figures.values()
    gain, error = probe.paired(trained, untrained)
    times = f", {gain / error:.1f} standard errors" if error else ""
    say(f"{name}, gain over untrained: {100 * gain:+.1f} points ± {100 * error:.1f} (paired{times})")
    return {"untrained": untrained.float().mean().item(), "gain": gain, "gain_standard_error": error}


def _key(line: dict[str, Any]) -> tuple:
    return tuple(sorted((key, value) for key, value in line.items() if key != "accuracy"))
