"""The flags of `fgtrain study`. A docstring under a field is its `--help`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .common import MOST, SEEDS, need, need_between

MOST_WORKERS = 1024


@dataclass(frozen=True)
class StudyData:
    """The data of a scaled-down study."""

    shards: tuple[Path, ...] = ()
    """Shard sets in place of the study's, in its order. With fewer of them, only the columns of the first sets remain.
    """
    batch_size: int | None = None
    """Samples per step, for every run. Default: each row's own."""

    def __post_init__(self) -> None:
        need(
            self.batch_size is None or 2 <= self.batch_size <= MOST,
            "data.batch-size",
            self.batch_size,
            f"2 to {MOST:,}",
        )


@dataclass(frozen=True)
class StudyModel:
    """The network of a scaled-down study."""

    backbone: str | None = None
    """Network of every run. Default: each row's own."""


@dataclass(frozen=True)
class StudyViews:
    """The views of a scaled-down study."""

    size: int | None = None
    """Side of every view in pixels. Default: each row's own."""

    def __post_init__(self) -> None:
        need(self.size is None or 8 <= self.size <= 4096, "views.size", self.size, "8 to 4096")


DATA, MODEL, VIEWS = StudyData(), StudyModel(), StudyViews()


@dataclass(frozen=True)
class Study:
    """Run a table of a paper, or one of your own, as a grid: rows are trained, columns are measured, over seeds.

    It runs what is missing and resumes what was stopped, so the same command continues it. Ctrl-C and SIGTERM stop
    every run with a checkpoint. The tables are written to the study's folder: table.md, table.csv, table.html, and
    the results that they are made of, results.jsonl and study.json.
    """

    name: Annotated[Positional[str], arg(metavar="NAME-or-FILE.toml")]
    """A study of `fgtrain study list`, or the file of one of your own (docs/studies.md)."""
    data: StudyData = DATA
    model: StudyModel = MODEL
    views: StudyViews = VIEWS
    seeds: tuple[int, ...] = ()
    """Seeds of every row. Default: the study's."""
    epochs: int | None = None
    """Epochs of every run. Default: each row's own."""
    init: str | None = None
    """Weights that every row with a start begins from, in place of the study's own and of its first stages: any value
    of `fgtrain run --init`, or random. Default: the study's own."""
    settings: tuple[str, ...] = ()
    """Other settings of every run that has them, NAME=VALUE: optim.lr=0.1 moco.queue=auto; or of an evaluation:
    finetune.epochs=5 linear.cache=true."""
    rows: tuple[str, ...] = ()
    """Names of the rows to run and to show. Default: all. The base row is always kept."""
    workers: int = 1
    """Runs at a time, each in a separate process with its share of the cores, or a GPU of its own."""
    part: str | None = None
    """I/N: run only part I of N, counted from 0, as one of N jobs on a shared disk. A last call without it writes the
    table. Default: the whole study."""
    tune: bool = False
    """First choose a learning rate for each method, with the same sweep for all, by kNN on a tenth of the train split.
    """
    dry_run: bool = False
    """Check the settings of every row, print what would run and how long it takes, and stop."""
    tables: bool = False
    """Only write the tables of what is measured so far, and stop; also while the study runs elsewhere."""
    pictures: bool = False
    """Also draw Grad-CAM of the runs side by side, and the pairs of those that synthesize them, on the same images of
    the first set: pictures/ in the study's folder."""
    out: Path | None = None
    """Folder of the runs and tables. Default: studies/NAME."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps. auto: cuda if available, else cpu."""

    def __post_init__(self) -> None:
        for seed in self.seeds:
            need(0 <= seed < SEEDS, "seeds", seed, "0 to 2^64 - 1")
        need(len(set(self.seeds)) == len(self.seeds), "seeds", " ".join(map(str, self.seeds)), "each seed once")
        need(self.epochs is None or 1 <= self.epochs <= MOST, "epochs", self.epochs, f"1 to {MOST:,}")
        need_between(1, self.workers, MOST_WORKERS, "workers")
        self.share()
        for word in self.settings:
            need("=" in word and not word.startswith("="), "settings", word, "NAME=VALUE, such as optim.lr=0.1")

    def share(self) -> tuple[int, int]:
        """I and N of --part, I counted from 0; 0 and 1 without it."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "0/1" if self.part is None else self.part)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        need(0 <= index < count, "part", self.part, "I/N with I from 0 to N - 1, such as 0/8 to 7/8")
        return index, count
