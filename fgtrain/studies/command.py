"""`fgtrain study`: lists the studies, or runs one and writes its tables."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.live import Live
from rich.table import Table as RichTable

from fgdata import plugins
from fgdata.commandline.console import PlainConsole
from fgdata.cores import available_cores
from fgdata.errors import InputError, ReportedStop, counted
from fgdata.files.lock import create_folder
from fgdata.shards.manifest import MANIFEST

from ..engine.signals import StopSignals
from ..printing import say
from ..runs.files import write_bytes
from ..settings.studying import Study as Flags
from . import declaration, estimate, page, pictures, plan, record, running, tables, tune
from .check import check
from .figures import Results
from .plan import Job, Measure, Plan, reason_missing
from .progress import Progress
from .scaling import scale


def run_study(flags: Flags) -> None:
    """Runs what a study lacks, then prints and writes its table."""
    if flags.name == "list":
        say(listing())
        return
    study = declaration.load(flags.name)
    scaled = scale(study, flags)
    out = flags.out or Path("studies") / study.name
    for file, what in ((MANIFEST, "a shard set"), ("config.json", "a training run")):
        if (out / file).is_file():
            raise InputError(f"--out {out} is {what}. Name another folder for the study")
    made = plan.make(scaled, out)
    check(made, part(made, flags), flags.device, need_sets=not (flags.dry_run or flags.tables))
    rates: list[str] = []
    if flags.tune and not flags.dry_run:

        def run_all(trials: Plan, every: Sequence[Job]) -> None:
            check(trials, every, flags.device, need_sets=not flags.tables)
            plan.check_started(trials)
            if not flags.tables:
                running.check_failures(run_jobs(trials, every, flags), out / "logs")

        made, rates = tune.tune(made, run_all)
    if not (flags.tune and flags.dry_run):  # the rates are not known yet
        plan.check_started(made)
    jobs = part(made, flags)
    if flags.dry_run:
        dry_run(made, jobs, flags)
        return
    failed = {} if flags.tables else run_jobs(made, jobs, flags)
    write(made, flags, out, rates)
    if flags.pictures:
        pictures.draw(made, flags.device)
    running.check_failures(failed, out / "logs")


def write(made: Plan, flags: Flags, out: Path, rates: Sequence[str] = ()) -> None:
    """Prints the table of a study as far as it is measured, and writes it with the results that it is made of.

    rates: sentences on how the learning rates were chosen. InputError if the folder cannot be written.
    """
    results = record.take(made, flags, [*unused(made), *rates])
    table = record.table(results)
    create_folder(out, "--out")
    record.write(results, out)
    texts = {"md": tables.markdown(table), "csv": tables.as_csv(table), "html": page.page(table)}
    for kind, text in texts.items():
        write_bytes(out / f"table.{kind}", text.encode())
    say(tables.terminal(table), *table.head, *table.foot)
    if absent := sorted({d.path for job in made.jobs.values() for m in job.measures if not (d := m.data).is_built}):
        say(f"Results on {', '.join(absent)} are left out of the table and of results.jsonl: the set is not there.")
    say(f"Written: {', '.join(str(out / f'table.{kind}') for kind in texts)}, {out / 'results.jsonl'}")


def listing() -> RichTable:
    """The built-in studies: rows that can be run, columns, seeds."""
    table = RichTable(title="fgtrain study NAME", title_justify="left")
    table.add_column("study", no_wrap=True)
    table.add_column("what it is")
    for name in declaration.names():
        study = declaration.load(name)
        rows = sum(not reason_missing(row, study) for row in study.rows)
        of = "" if rows == len(study.rows) else f" of {len(study.rows)}"
        sets = ", ".join(dict.fromkeys(study.sets[column.set].title for column in study.columns))
        facts = (
            f"{rows}{of} rows, {counted(len(study.columns), 'column')} on {sets}, {counted(len(study.seeds), 'seed')}"
        )
        table.add_row(name, f"{study.title}\n{facts}")
    return table


def part(made: Plan, flags: Flags) -> list[Job]:
    """The jobs of --part: every Nth row and seed, and the first stages that these need."""
    index, count = flags.share()
    stages = {job.needs for job in made.jobs.values()}
    own = [job for job in made.jobs.values() if job.folder not in stages][index::count]
    needed = {job.needs for job in own}
    alone = [job for job in made.jobs.values() if job.folder in stages and (count == 1 or job.folder in needed)]
    return alone + own


def dry_run(made: Plan, jobs: Sequence[Job], flags: Flags) -> None:
    """Prints the rows, what they would run, and how long it takes."""
    study, found = made.scaled.study, Results(made)
    lacking = [(job, found.missing(job)) for job in jobs]
    open_ = [(job, measures) for job, measures in lacking if measures or not job.trained]
    table = RichTable("row", "recipe", "runs", "done", title=study.title, title_justify="left")
    for row in study.rows:
        reason = reason_missing(row, study, made.scaled.init)
        folders = {folder for (name, _, _), folder in made.cells.items() if name == row.name}
        folders = {folder for folder in folders if made.jobs[folder].config is not None}
        done = sum(made.jobs[folder].trained for folder in folders)
        what = row.recipe or f"{row.start}, as it is"
        table.add_row(row.name, f"not run: {reason}" if reason else what, str(len(folders) or ""), str(done or ""))
    trainings = sum(not job.trained for job, _ in open_)
    evaluations = sum(len(measures) for _, measures in open_)
    if flags.tune:
        sweep = tune.with_trials(made, tune.sweeps(made))
        lacking = [(job, Results(sweep).missing(job)) for job in sweep.jobs.values() if job.folder not in made.jobs]
        extra = [(job, measures) for job, measures in lacking if measures or not job.trained]
        say(f"--tune adds {counted(len(extra), 'run')} of {counted(len(tune.FACTORS), 'learning rate')} per method.")
        open_ += extra
    total = estimate.estimate(open_, made.jobs.values(), flags.device)
    say(table, *record.head(study, made.scaled.changed, made.scaled.scope), *unused(made))
    if unbuilt := sorted({d.path for job in jobs for d in job.sets if not d.is_built}):
        say(f"Not built yet: {', '.join(unbuilt)}")
    todo = f"{counted(trainings, 'run')}, {counted(evaluations, 'evaluation')}"
    say(f"To do: {todo}. Estimated time, one at a time: {total}")


def run_jobs(made: Plan, jobs: Sequence[Job], flags: Flags) -> dict[Path, str]:
    """Runs the jobs -> folders of failed ones and why. ReportedStop after Ctrl-C; SystemExit(0) after another
    stop signal: both leave everything resumable."""
    create_folder(made.out, "--out")
    logs, cores = made.out / "logs", available_cores()

    def lacking(job: Job) -> list[Measure]:
        return Results(made).missing(job)

    def commands(job: Job) -> list[list[str]]:
        threads = running.share(flags.workers, 0, flags.device, cores)[1]
        if job.weights:
            create_folder(job.folder, "--out")
        return plan.commands(job, lacking(job), flags.device, threads, made.out / "settings")

    def launch(job: Job, words: list[list[str]], slot: int) -> running.Process:
        environment, _ = running.share(flags.workers, slot, flags.device, cores)
        progress.started(job)
        return running.start(job, words, environment, logs)

    console = PlainConsole(forgiving=True, soft_wrap=True)
    with Live(console=console, refresh_per_second=2) if console.is_terminal else nullcontext() as live:
        progress = Progress(jobs, lacking, flags, live, console)
        with StopSignals() as stop:
            stop.catch()
            failed = running.run(jobs, commands, launch, flags.workers, progress.report, stop)
    if stop.came:
        again = shlex.join(["fgtrain", *sys.argv[1:]]) if sys.argv[1:] else "the same command"
        say(f"Stopped. Every run has a checkpoint; continue: {again}{plugins.flags()}")
        if stop.interrupted:
            raise ReportedStop
        raise SystemExit(0)
    return failed


def unused(made: Plan) -> list[str]:
    """Which rows do not have a setting of the command line, and which settings none has."""
    rows: dict[str, list[str]] = {}
    for row, names in made.unused.items():
        for name in names:
            rows.setdefault(name, []).append(row)
    of_some = [f"{name} has no effect on: {', '.join(each)}" for name, each in rows.items()]
    return [*of_some, *(f"{name} has no effect: no row and no column has it" for name in made.scaled.idle)]
