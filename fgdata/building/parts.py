"""`--part I/N`: the share of the shards that one of N machines builds. `finish` closes the set (finish.py)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InputError

VARIABLES = {
    "SLURM_ARRAY_TASK_ID": "a Slurm array",
    "JOB_COMPLETION_INDEX": "an indexed Kubernetes job",
    "AWS_BATCH_JOB_ARRAY_INDEX": "an AWS Batch array",
}
"""Where `--part auto/N` finds the index: environment variable -> who sets it. All of them count from 0."""
MOST = 100_000


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`; the first is 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise InputError(f"--part {self}: the number of parts must be 1 to {MOST:,}.")
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--part {self}: parts count from 0, so the first number must be 0 to {self.count - 1:,}. For a Slurm "
                f"array: --array=0-{self.count - 1}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def share(self, shards: int) -> range:
        """-> the numbers of this part's shards, of `shards` in all. Each shard is in one part; sizes differ by 1."""
        return range(self.index * shards // self.count, (self.index + 1) * shards // self.count)


def parse_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """ "3/8" or "auto/8" -> Part(3, 8). auto: the index that a scheduler sets (VARIABLES).

    Raises InputError: the text has another form, or a number is out of range; auto without such a variable, or with two
    that differ.
    """
    found = re.fullmatch(r"(auto|[0-9]{1,9})/([0-9]{1,9})", text)
    if not found:
        raise InputError(
            f"--part {text}: must be I/N, such as 0/8 to 7/8, or auto/N in a job array of Slurm, Kubernetes or AWS "
            "Batch."
        )
    index, count = found.groups()
    if index == "auto":
        given = {name: environment[name] for name in VARIABLES if environment.get(name)}
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        if not given:
            raise InputError(
                f"--part {text}: none of {', '.join(VARIABLES)} is set, so this is not a task of a job array. Give the "
                f"number: --part 0/{count}"
            )
        if len({*given.values()}) > 1 or not re.fullmatch("[0-9]{1,9}", next(iter(given.values()))):
            raise InputError(f"--part {text}: {listed} is not one index. Give the number: --part 0/{count}")
        index = next(iter(given.values()))
    return Part(int(index), int(count))
