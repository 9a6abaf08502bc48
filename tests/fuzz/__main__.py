"""python -m tests.fuzz: run inputs of one family or of all, and print every breach of the contract."""

import sys
import time
from collections import Counter
from pathlib import Path

import tyro

from .contract import SECONDS
from .families import FAMILIES, prepared


def fuzz(
    family: tuple[str, ...] = FAMILIES,
    seed: int | None = None,
    first: int = 0,
    count: int = 200,
    minutes: float | None = None,
    seconds: float = SECONDS,
    keep: Path | None = None,
) -> int:
    """Run hostile inputs and print each one that breaks the contract, with its traceback.

    Args:
        family: families to run; all by default.
        seed: run only this input of each family.
        first: seed of the first input.
        count: inputs of each family.
        minutes: instead of count, share this time among the families.
        seconds: limit for one input.
        keep: keep the folders of the last input of each family here.
    """
    if unknown := sorted(set(family) - set(FAMILIES)):
        sys.exit(f"--family {unknown[0]}: allowed are {', '.join(FAMILIES)}.")
    breaches, kinds, total = 0, Counter(), 0
    for name in family:
        verdicts, start = Counter(), time.monotonic()
        with prepared(name, keep) as ready:
            number = seed if seed is not None else first
            while True:
                result = ready.run(number, seconds)
                total += 1
                verdicts[result.outcome.verdict] += 1
                if result.outcome.is_breach or seed is not None:
                    lines = result.outcome.text.strip().splitlines()
                    breaches += result.outcome.is_breach
                    kinds[name, lines[-1][:100] if lines else result.outcome.verdict] += result.outcome.is_breach
                    text = "\n".join(lines if seed is not None else lines[-6:])
                    print(f"{result}\n{text}\n".encode("utf-8", "backslashreplace").decode(), flush=True)
                number += 1
                passed = (time.monotonic() - start) / 60
                if seed is not None or (minutes is None and number >= first + count):
                    break
                if minutes is not None and passed > minutes / len(family):
                    break
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.most_common())
        print(f"{name}: seeds {first if seed is None else seed} to {number - 1}: {counts}", flush=True)
    for (name, kind), many in kinds.most_common():
        if many:
            print(f"  {many:4} x {name}: {kind}".encode("utf-8", "backslashreplace").decode())
    print(f"{total:,} inputs, {breaches:,} breaches of the contract")
    return int(breaches > 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(fuzz, prog="python -m tests.fuzz"))
