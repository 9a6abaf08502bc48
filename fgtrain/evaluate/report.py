"""What each `fgtrain eval` does: checks its settings, measures, prints a table, and appends to results.jsonl."""

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
    return subject.record("knn", **values, **tell_gain(right, "accuracy"))


def run_linear(flags: Linear) -> list[dict[str, Any]]:
    """One record per fraction."""
    subject = Subject.open(flags, BOTH)
    cache, fractions, trials, epochs = flags.cache, flags.fractions, flags.trials, flags.epochs
    for fraction in fractions:
        need(0 < fraction <= 1, "fractions", f"{fraction:g}", "shares of the labels, above 0 and at most 1")
    need(bool(fractions), "fractions", "empty", "one share of the labels or more")
    need(trials >= 1, "trials", trials, "1 or more")
    need(epochs is None or epochs >= 1, "epochs", epochs, "1 or more")
    how = linear.PROTOCOLS[flags.protocol]
    how = how if epochs is None else replace(how, epochs=epochs)
    options = subject.shards, subject.size, subject.device, how, cache, fractions, trials, flags.seed
    found = linear.linear(load_encoder(subject.found), *options)
    crops = "central squares, features computed once" if cache else "random crops"
    title = f"linear, {flags.protocol}, {counted(how.epochs, 'epoch')}, {crops}, {subject.size} px"
    table = new_table(f"{title}: {subject.name}", "labels", "test accuracy, %", "trials", "learning rate", "n")
    records = []
    for fraction, each in found.items():
        accuracies = [right.float().mean().item() for right, _ in each]
        rates = sorted({rate for _, rate in each}, reverse=True)
        n = len(each[0][0])
        named = ", ".join(f"{rate:g}" for rate in rates)
        table.add_row(f"{fraction:.0%}", percent(accuracies), str(trials), named, f"{n:,}")
        values = spread(accuracies, n) | {"protocol": flags.protocol, "cache": cache, "fraction": fraction}
        values |= {"epochs": how.epochs, "trials": trials, "seed": flags.seed}
        records.append(values | {"lrs": [rate for _, rate in each], "chance": subject.chance})
    say(table, f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)")
    tell_interval(trials)
    return [subject.record("linear", **values) for values in records]


def run_finetune(flags: Finetune) -> dict[str, Any]:
    """Every finished fit stands in the run's finetune.jsonl, from which a call stopped half-way goes on."""
    subject = Subject.open(flags, BOTH)
    journal = None if subject.found.run is None else subject.found.run.path / "finetune.jsonl"
    same = {"step": subject.found.step, "digest": subject.shards.manifest["digest"], "size": subject.size}
    same |= {"epochs": flags.epochs, "batch_size": flags.batch_size}
    done = {} if journal is None else {_key(line): line["accuracy"] for line in read_lines(journal)}
    searches = len(flags.rates) * len(flags.decays)
    searches = searches if searches > 1 else 0
    count = 0

    def finish(fit: finetune.Fit, train: Callable[[], float]) -> float:
        nonlocal count
        count += 1
        line: dict[str, Any] = {**asdict(fit), **same}
        known, start = _key(line) in done, time.monotonic()
        accuracy = done[_key(line)] if known else train()
        if journal is not None and not known:
            append(journal, {**line, "accuracy": accuracy})
        where = "of the held-out part of train" if fit.search else "of test"
        say(
            f"{count} of {searches + flags.trials}: lr {fit.rate:g}, weight decay {fit.decay:g}, seed {fit.seed}: "
            f"{accuracy:.1%} {where}" + (" (from finetune.jsonl)" if known else f", {time.monotonic() - start:.0f} s")
        )
        return accuracy

    best, accuracies = finetune.tune(
        lambda: load_encoder(subject.found), subject.shards, subject.size, subject.device, flags, finish
    )
    n = subject.shards.splits["test"]
    title = f"fine-tuned, {counted(flags.epochs, 'epoch')}, batch {flags.batch_size}, {subject.size} px"
    table = new_table(title, "encoder", "test accuracy, %", "trials", "learning rate", "weight decay", "n")
    chosen = (f"{best.rate:g}", f"{best.decay:g}")
    table.add_row(subject.name, percent(accuracies), str(flags.trials), *chosen, f"{n:,}")
    say(table, f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)")
    tell_interval(flags.trials)
    values = spread(accuracies, n) | {"trials": flags.trials, "seed": flags.seed, "epochs": flags.epochs}
    values |= {"batch_size": flags.batch_size, "rates": flags.rates, "decays": flags.decays}
    return subject.record("finetune", **values, lr=best.rate, weight_decay=best.decay, chance=subject.chance)


def run_retrieval(flags: Retrieval) -> dict[str, Any]:
    subject = Subject.open(flags, ("test",))
    views = ViewSpec.evaluation(subject.size)
    found = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        features, labels, _ = probe.embed(encoder, subject.shards, "test", views, subject.device)
        found[name] = retrieval.retrieve(features.to(subject.device), labels)
    table = new_table(f"retrieval, {subject.size} px", "encoder", "rank-1", "rank-5", "mAP", "queries")
    for name, r in found.items():
        table.add_row(name, told(r.rank(1)), told(r.rank(5)), told(r.precision), f"{len(r.first):,}")
    r = found[subject.name]
    alone = len(labels) - len(r.first)
    say(table, f"± one standard error. mAP of a random ranking: {r.chance.mean():.1%}")
    if alone:
        say(f"{alone:,} images are the only one of their class: in the gallery, but no queries.")
    values = {"rank1": float(r.rank(1).mean()), "rank5": float(r.rank(5).mean()), "map": float(r.precision.mean())}
    values |= {"map_standard_error": standard_error(r.precision), "map_chance": float(r.chance.mean())}
    values |= {"n": len(r.first)}
    right = {name: torch.from_numpy(each.precision) for name, each in found.items()}
    return subject.record("retrieval", **values, **tell_gain(right, "mAP"))


def run_localization(flags: Localization) -> dict[str, Any]:
    subject = Subject.open(flags, BOTH)
    stated = localization.true_boxes(subject.shards, "test")
    found = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        options = subject.shards, subject.size, subject.device, flags.seed, stated
        maps, truth = localization.activation_maps(encoder, *options)
        found[name] = localization.overlaps(maps, truth, subject.size)
    title = f"localization by class-activation maps, {subject.size} px"
    table = new_table(title, "boxes", "MaxBoxAcc", "at threshold", "MaxBoxAccV2", "n")
    for name, o in found.items():
        share, at = told(o.found), f"{localization.THRESHOLDS[o.best]:.2f}"
        table.add_row(name, share, at, f"{o.v2:.1%}", f"{len(o.found):,}")
    baselines = {}
    for name, row, box in (("centred", "centred 70 % box", CENTRED), ("whole", "whole image", WHOLE)):
        meets = np.array([iou(box, boxes).max() for boxes in truth])
        baselines[name] = float((meets >= 0.5).mean())
        v2 = np.mean([(meets >= overlap).mean() for overlap in localization.OVERLAPS])
        table.add_row(row, f"{baselines[name]:.1%}", "", f"{v2:.1%}")
    say(table, "± one standard error. The threshold is the best one for these images: so MaxBoxAcc is defined.")
    o = found[subject.name]
    values = {"maxboxacc": float(o.found.mean()), "maxboxacc_standard_error": standard_error(o.found)}
    values |= {
        "maxboxaccv2": o.v2,
        "n": len(o.found),
        "threshold": float(localization.THRESHOLDS[o.best]),
        **baselines,
        "seed": flags.seed,
    }
    right = {name: torch.from_numpy(each.found) for name, each in found.items()}
    return subject.record("localization", **values, **tell_gain(right, "MaxBoxAcc"))


def new_table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def say(*parts: Table | str) -> None:
    for part in parts:
        CONSOLE.print(part, soft_wrap=isinstance(part, str))


def standard_error(values: np.ndarray) -> float:
    """(n,) -> of their mean."""
    return float(values.std() / len(values) ** 0.5)


def told(values: np.ndarray) -> str:
    return f"{values.mean():.1%} ± {100 * standard_error(values):.1f}"


def spread(accuracies: Sequence[float], n: int) -> dict[str, Any]:
    """Accuracies of the trials on n test samples -> their mean, its interval over trials, and each of them."""
    mean, half = mean_interval(accuracies)
    return {"accuracy": mean, "interval_half": half, "standard_error": (mean * (1 - mean) / n) ** 0.5, "n": n} | {
        "accuracies": list(accuracies)
    }


def tell_interval(trials: int) -> None:
    if trials > 1:
        say(f"± half the 95 % interval of the mean over {trials} trials (Student's t).")


def tell_gain(figures: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """Per encoder (n,) figures of the same samples, the second one's the untrained -> what the record says of it."""
    if len(figures) < 2:
        return {}
    trained, untrained = figures.values()
    gain, error = probe.paired(trained, untrained)
    times = f", {gain / error:.1f} standard errors" if error else ""
    say(f"{name}, gain over untrained: {100 * gain:+.1f} points ± {100 * error:.1f} (paired{times})")
    return {"untrained": untrained.float().mean().item(), "gain": gain, "gain_standard_error": error}


def _key(line: dict[str, Any]) -> tuple:
    return tuple(sorted((key, value) for key, value in line.items() if key != "accuracy"))
