"""python -m tests.fuzz: run inputs of one family or of all, and print every breach of the contract."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count as count_from
from pathlib import Path
from typing import Annotated

import tyro

from .contract import SECONDS
from .families import FAMILIES, Input, Prepared, prepared


def fuzz(
    family: tuple[str, ...] = FAMILIES,
    seed: int | None = None,
    first: int = 0,
    count: int = 200,
    skip: tuple[int, ...] = (),
    minutes: float | None = None,
    seconds: float = SECONDS,
    valid: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    keep: Path | None = None,
) -> int:
    """Run hostile inputs and print each one that breaks the contract, with its traceback.

    Args:
        family: families to run; all by default.
        seed: run only this input of each family.
        first: seed of the first input.
        count: inputs of each family.
        skip: seeds to leave out.
        minutes: instead of count, share this time among the families.
        seconds: limit for one input.
        valid: first check that every command succeeds on the valid files, so that not only refusals are tested.
        keep: keep the folders of the last input of each family here.
    """
    if unknown := sorted(set(family) - set(FAMILIES)):
        sys.exit(f"--family {unknown[0]}: allowed are {', '.join(FAMILIES)}.")
    total, breaches = 0, Counter()
    for name in family:
        verdicts, last = Counter(), first
        with prepared(name, keep) as ready:
            if valid:
                breaches.update(_check_valid(ready))
            until = time.monotonic() + 60 * minutes / len(family) if minutes else None
            seeds = iter([seed]) if seed is not None else _seeds(first, count, skip, until)
            for last in seeds:
                result = ready.run(last, seconds)
                verdicts[result.outcome.verdict] += 1
                if result.outcome.is_breach:
                    breaches[f"{name}: {_last_line(result)}"] += 1
                if result.outcome.is_breach or seed is not None:
                    _print(f"{result}\n{_shorten(result.outcome.text, 6 if seed is None else 1000)}\n")
        total += verdicts.total()
        _print(f"{name}, seeds to {last}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in verdicts.most_common()))
    for kind, number in breaches.most_common():
        _print(f"{number:6} x {kind}")
    _print(f"{total:,} inputs, {breaches.total():,} breaches of the contract")
    return int(breaches.total() > 0)


def _seeds(first: int, count: int, skip: tuple[int, ...], until: float | None) -> Iterator[int]:
    for number in count_from(first):
        if time.monotonic() > until if until else number >= first + count:
            return
        if number not in skip:
            yield number


def _check_valid(ready: Prepared) -> Iterator[str]:
    for command in ready.module.COMMANDS:
        expected = "refused" if command in ready.module.FAILING else "ok"
        outcome = ready.run_valid(command)
        if outcome.verdict != expected:
            yield f"{ready.name}: {command} on the valid files: {outcome.verdict} {outcome.text}\n{ready.errors()}"


def _last_line(result: Input) -> str:
    return (result.outcome.text.strip().splitlines() or [result.outcome.verdict])[-1][:100]


def _shorten(text: str, lines: int) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _print(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)


if __name__ == "__main__":
    sys.exit(tyro.cli(fuzz, prog="python -m tests.fuzz"))
