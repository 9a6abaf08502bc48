"""Each `fgtrain eval`: checks its settings, measures, appends to the run's results.jsonl, and prints a table."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from fgdata.boxes.geometry import CENTRED, WHOLE, iou
from fgdata.errors import counted

from ..networks.encoder import Encoder
from ..place import has_bf16
from ..printing import new_table, say
from ..runs import provenance
from ..runs.state import checksum
from ..settings.evaluations import Finetune, Knn, Linear, Localization, Retrieval
from . import finetune, knn, linear, localization, probe, retrieval
from .cam import remark_on
from .intervals import mean_interval, percent
from .labels import Labelled
from .records import append_record, check_appendable, read_records
from .subject import Subject

BOTH = ("train", "test")


def run_knn(flags: Knn) -> dict[str, Any]:
    """Runs `fgtrain eval knn` and returns its record."""
    left_out = flags.split == "train"  # each train image is scored, and does not vote for itself
    splits = ("train",) if left_out else BOTH
    subject, k, temperature = Subject.open(flags, splits), flags.k, flags.temperature
    labels = [probe.labels_of(subject.shards, split) for split in splits]
    notes = subject.check_classes(labels[0], labels[-1])
    knn.check_k(k, len(labels[0]), left_out)
    if left_out:
        knn.with_company(labels[0])
    right = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        train = embed(subject, encoder, "train")
        rest = k, temperature, len(subject.shards.classes)
        if left_out:
            right[name] = knn.classify_each(train, *rest)
        else:
            right[name] = knn.classify(train, embed(subject, encoder, "test"), *rest)
    table = new_table(f"kNN, k = {k}, {subject.size} px", "encoder", f"{flags.split} accuracy", "standard error", "n")
    for name, r in right.items():
        s = probe.score(r)
        table.add_row(name, f"{s['accuracy']:.1%}", f"{s['standard_error']:.1%}", f"{s['n']:,}")
    values = probe.score(right[subject.name]) | {"k": k, "temperature": temperature, "chance": subject.chance}
    values |= {"split": flags.split} if left_out else {}
    gain, sentences = compute_gain(right, "accuracy")
    (record,) = publish(subject, "knn", [values | gain], table, chance(subject), *notes, *sentences)
    return record


def run_linear(flags: Linear) -> list[dict[str, Any]]:
    """Runs `fgtrain eval linear` and returns one record per fraction of the labels."""
    subject, listed, about = with_labels(Subject.open(flags, BOTH), flags.labels)
    notes = check_classes(subject)
    cache, fractions, trials = flags.cache, flags.fractions, flags.trials
    protocol, changed = linear.protocol_of(flags), linear.changes(flags)
    encoder = subject.load()
    train, test = (embed(subject, encoder, split) for split in BOTH)
    options = subject.shards, subject.size, subject.device, protocol, cache, fractions, trials, flags.seed
    results = linear.linear(encoder, train, test, *options)
    crops = "central squares, features computed once" if cache else "random crops"
    passes = counted(protocol.epochs, "epoch") + (f", batch {protocol.batch_size}" if "batch_size" in changed else "")
    title = f"linear, protocol {flags.protocol}, {passes}, {crops}, {subject.size} px"
    table = new_table(f"{title}: {subject.name}", "labels", "test accuracy, %", "trials", "learning rate", "n")
    records = []
    for fraction, each in results.items():
        accuracies = [right.float().mean().item() for right, _ in each]
        rates = sorted({rate for _, rate in each}, reverse=True)
        n = len(each[0][0])
        rates_text = ", ".join(f"{rate:g}" for rate in rates)
        table.add_row(f"{fraction:.0%}", percent(accuracies), str(trials), rates_text, f"{n:,}")
        values = spread(accuracies, n) | {"protocol": flags.protocol, "cache": cache, "fraction": fraction}
        values |= {"epochs": protocol.epochs, "trials": trials, "seed": flags.seed} | changed | listed
        records.append(values | {"lrs": [rate for _, rate in each], "chance": subject.chance})
    about += [chance(subject), *notes, *explain_interval(trials)]
    return publish(subject, "linear", records, table, *about)


def run_finetune(flags: Finetune) -> list[dict[str, Any]]:
    """Runs `fgtrain eval finetune` and returns one record per fraction of the labels.

    Every finished fit is a line in the run's finetune.jsonl, so a rerun resumes after the last finished fit. A line is
    reused only if everything that decides its accuracy is equal: fit, weights, data, code, versions and device.
    """
    subject, listed, about = with_labels(Subject.open(flags, BOTH), flags.labels)
    notes = check_classes(subject)
    journal = None if subject.checkpoint.run is None else subject.checkpoint.run.path / "finetune.jsonl"
    if journal is not None:
        check_appendable(journal)
    setting = {"step": subject.checkpoint.step, "digest": subject.shards.manifest["digest"], "size": subject.size}
    setting |= {"epochs": flags.epochs, "batch_size": flags.batch_size} | listed
    setting |= {"encoder_crc32": checksum(subject.load().state_dict())}
    setting |= {"commit": provenance.commit(), "versions": provenance.versions()}
    setting |= {"device": provenance.name_of(subject.device)}
    setting |= {"precision": "bfloat16" if has_bf16(subject.device) else "float32"}
    done = {_key(line.values): line.figure("accuracy") for line in read_records(journal)} if journal else {}
    searches = len(flags.rates) * len(flags.decays)
    total = len(flags.fractions) * ((searches if searches > 1 else 0) + flags.trials)
    count = 0

    def finish(fit: finetune.Fit, train: Callable[[], float]) -> float:
        nonlocal count
        count += 1
        line: dict[str, Any] = {**asdict(fit), **setting}
        reused, start = _key(line) in done, time.monotonic()
        accuracy = done[_key(line)] if reused else train()
        if journal is not None and not reused:
            append_record(journal, {**line, "accuracy": accuracy})
        where = "of the held-out part of train" if fit.search else "of test"
        labels = f"{fit.fraction:.3g} of the labels, " if fit.fraction < 1 else ""
        say(
            f"{count} of {total}: {labels}lr {fit.rate:g}, weight decay {fit.decay:g}, seed {fit.seed}: "
            f"{accuracy:.1%} {where}" + (" (from finetune.jsonl)" if reused else f", {time.monotonic() - start:.0f} s")
        )
        return accuracy

    n, size = subject.shards.splits["test"], subject.size
    title = f"fine-tuned, {counted(flags.epochs, 'epoch')}, batch {flags.batch_size}, {size} px: {subject.name}"
    table = new_table(title, "labels", "test accuracy, %", "trials", "learning rate", "weight decay", "n")
    records = []
    for fraction in flags.fractions:
        tuning = replace(flags, fractions=(fraction,))
        best, accuracies = finetune.tune(subject.load, subject.shards, size, subject.device, tuning, finish)
        chosen = (f"{best.rate:g}", f"{best.decay:g}")
        table.add_row(f"{fraction:.0%}", percent(accuracies), str(flags.trials), *chosen, f"{n:,}")
        values = spread(accuracies, n) | {"trials": flags.trials, "seed": flags.seed, "epochs": flags.epochs}
        values |= {"batch_size": flags.batch_size, "rates": flags.rates, "decays": flags.decays, "fraction": fraction}
        values |= listed
        records.append(values | {"lr": best.rate, "weight_decay": best.decay, "chance": subject.chance})
    about += [chance(subject), *notes, *explain_interval(flags.trials)]
    return publish(subject, "finetune", records, table, *about)


def with_labels(subject: Subject, file: Path | None) -> tuple[Subject, dict[str, str], list[str]]:
    """A subject whose train split has only the listed images, the setting for its records, and a sentence about it."""
    if file is None:
        return subject, {}, []
    shards = Labelled(subject.shards, "train", file)
    return replace(subject, shards=shards), {"labels": shards.setting}, [shards.note]


def check_classes(subject: Subject) -> list[str]:
    """Subject.check_classes of the labels of both splits, which are read alone: it comes before anything expensive."""
    return subject.check_classes(*(probe.labels_of(subject.shards, split) for split in BOTH))


def run_retrieval(flags: Retrieval) -> dict[str, Any]:
    """Runs `fgtrain eval retrieval` and returns its record."""
    subject = Subject.open(flags, ("test",))
    results = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        features, labels, _ = embed(subject, encoder, "test")
        results[name] = retrieval.retrieve(features.to(subject.device), labels)
    table = new_table(f"retrieval, {subject.size} px", "encoder", "rank-1", "rank-5", "mAP", "queries")
    for name, r in results.items():
        table.add_row(
            name, mean_and_error(r.rank(1)), mean_and_error(r.rank(5)), mean_and_error(r.precision), f"{len(r.first):,}"
        )
    r = results[subject.name]
    alone = len(labels) - len(r.first)
    notes = [f"± one standard error. mAP of a random ranking: {r.chance.mean():.1%}"]
    if alone:
        notes.append(f"{counted(alone, 'image')} without another of the same class: in the gallery, but not queries.")
    values = {"rank1": float(r.rank(1).mean()), "rank5": float(r.rank(5).mean()), "map": float(r.precision.mean())}
    values |= {"map_standard_error": standard_error(r.precision), "map_chance": float(r.chance.mean())}
    values |= {"n": len(r.first)}
    if flags.untrained:
        start = results["untrained"]
        values |= {"untrained_rank1": float(start.rank(1).mean()), "untrained_rank5": float(start.rank(5).mean())}
    right = {name: torch.from_numpy(each.precision) for name, each in results.items()}
    gain, sentences = compute_gain(right, "mAP")
    (record,) = publish(subject, "retrieval", [values | gain], table, *notes, *sentences)
    return record


def run_localization(flags: Localization) -> dict[str, Any]:
    """Runs `fgtrain eval localization` and returns its record."""
    subject = Subject.open(flags, BOTH)
    true_boxes = localization.true_boxes(subject.shards, "test")
    notes = ["± one standard error. MaxBoxAcc is defined at the best threshold for these images."]
    if missing := sum(not len(boxes) for boxes in true_boxes):
        notes.append(f"{missing:,} of {len(true_boxes):,} test images have no ground-truth box and are not scored.")
    notes += check_classes(subject)
    results = {}
    for name, encoder in subject.encoders(flags.untrained).items():
        options = subject.shards, subject.size, subject.device, flags.seed, true_boxes
        maps, truth, kind = localization.activation_maps(encoder, *options)
        if kind != "CAM":
            notes.append(f"{name}: {kind}, since the pooled feature is not the mean of the last map.")
        results[name] = localization.overlaps(maps, truth, subject.size)
        notes += [line for line in remark_on(maps.shape[1:]) if line not in notes]
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
    o = results[subject.name]
    values = {"maxboxacc": float(o.hits.mean()), "maxboxacc_standard_error": standard_error(o.hits)}
    values |= {
        "maxboxaccv2": o.v2,
        "n": len(o.hits),
        "threshold": float(localization.THRESHOLDS[o.best]),
        **baselines,
        "seed": flags.seed,
    }
    if flags.untrained:
        values["untrained_v2"] = results["untrained"].v2
    right = {name: torch.from_numpy(each.hits) for name, each in results.items()}
    gain, sentences = compute_gain(right, "MaxBoxAcc")
    (record,) = publish(subject, "localization", [values | gain], table, *notes, *sentences)
    return record


def embed(subject: Subject, encoder: Encoder, split: str) -> probe.Rows:
    """Features of the central squares of a split."""
    return probe.embed(encoder, subject.shards, split, encoder.evaluation_view(subject.size), subject.device)


def publish(
    subject: Subject, evaluation: str, records: Sequence[dict[str, Any]], *parts: Table | str
) -> list[dict[str, Any]]:
    """Appends the records to results.jsonl, prints the parts, and returns the lines.

    A measurement is therefore kept when the output has no reader (`| head`), and still printed when the disk
    is full.
    """
    try:
        return [subject.record(evaluation, **values) for values in records]
    finally:
        say(*parts)


def chance(subject: Subject) -> str:
    """A sentence with the accuracy of a guess."""
    return f"chance: {subject.chance:.1%} ({len(subject.shards.classes)} classes)"


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


def explain_interval(trials: int) -> list[str]:
    """The sentence that says what ± means; [] for a single trial, which has no interval."""
    return [f"± half the 95 % interval of the mean over {trials} trials (Student's t)."] if trials > 1 else []


def compute_gain(figures: Mapping[str, Tensor], name: str) -> tuple[dict[str, float], list[str]]:
    """Encoder -> (n,) figures of the same samples: the gain of the first over the second, the untrained one.

    Returns the keys that the record gets, and a sentence; ({}, []) when only one encoder was evaluated.
    """
    if len(figures) < 2:
        return {}, []
    trained, untrained = figures.values()
    gain, error = probe.paired(trained, untrained)
    times = f", {gain / error:.1f} standard errors" if error else ""
    values = {"untrained": untrained.float().mean().item(), "gain": gain, "gain_standard_error": error}
    return values, [f"{name}, gain over untrained: {100 * gain:+.1f} points ± {100 * error:.1f} (paired{times})"]


def _key(line: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in line.items() if key != "accuracy"}, sort_keys=True)
