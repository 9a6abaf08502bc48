"""--tune: one learning rate per method, chosen by kNN on the train split; the test split is not read.

Every method has the same sweep, over factors on its own rate. The first row of a method, with the first set and seed,
is trained with each, and the best factor is used for all rows of that method. Each train image is classified by the
votes of the others: with 1,500 images the standard error is a third of that of a tenth of them. A method that learns
from labels has seen those of all images, so it keeps its rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fgdata.errors import InputError

from ..settings.common import Config
from .declaration import Column
from .figures import Results
from .plan import Job, Measure, Plan, slug

FACTORS = (0.1, 0.3, 1.0, 3.0)
LEFT_OUT = {"split": "train"}


@dataclass(frozen=True)
class Sweep:
    """The training runs of one method, and what they measure."""

    method: str
    rate: float
    """The rate that the factors are of."""
    trials: dict[float, Job]
    column: Column


def method_of(config: Config) -> str:
    """What shares a rate: the method with its base, "cvsa on moco"."""
    base = getattr(config, "base", "")
    return f"{config.method} on {base}" if base else config.method


def sweeps(plan: Plan) -> list[Sweep]:
    """The sweep of every method of a study, in the order of its rows."""
    study, found = plan.scaled.study, {}
    stages = {job.needs for job in plan.jobs.values()}
    for (_, column, seed), folder in plan.cells.items():
        job = plan.jobs[folder]
        if job.config is None or seed != study.seeds[0] or "labels" in job.config.needs or folder in stages:
            continue
        name = method_of(job.config)
        if name in found or job.data is None:
            continue
        set_name = next(c.set for c in study.columns if c.name == column)
        set_name = next((key for key, data in study.sets.items() if data == job.data), set_name)
        own = next((c.settings for c in study.columns if (c.evaluation, c.set) == ("knn", set_name)), {})
        chosen_by = Column("", set_name, "knn", "accuracy", {**own, **LEFT_OUT})
        trials = {factor: _trial(plan, job, factor, name, chosen_by) for factor in FACTORS}
        found[name] = Sweep(name, job.config.optim.lr, trials, chosen_by)
    return list(found.values())


def _trial(plan: Plan, job: Job, factor: float, name: str, column: Column) -> Job:
    assert job.config is not None
    assert job.data is not None
    rate = job.config.optim.lr * factor
    folder = plan.out / "tune" / slug(name, f"lr{rate:.6g}")
    config = replace(job.config, optim=replace(job.config.optim, lr=rate))
    measure = Measure(column.evaluation, column.settings, job.data, plan.scaled.size)
    return replace(job, folder=folder, config=config, measures=(measure,))


def with_trials(plan: Plan, every: Sequence[Sweep]) -> Plan:
    """A plan of the sweeps and of the first stages that they need."""
    trials = [job for sweep in every for job in sweep.trials.values()]
    stages = [plan.jobs[folder] for folder in dict.fromkeys(job.needs for job in trials) if folder is not None]
    study = replace(plan.scaled.study, columns=tuple(sweep.column for sweep in every))
    jobs = {job.folder: job for job in [*(replace(stage, measures=()) for stage in stages), *trials]}
    return replace(plan, scaled=replace(plan.scaled, study=study), jobs=jobs, cells={})


def choose(plan: Plan, every: Sequence[Sweep]) -> tuple[dict[str, float], list[str]]:
    """The measured sweeps -> method -> factor with the best accuracy (the lower of two), and a sentence for the notes
    below the table.

    InputError if a sweep is not complete.
    """
    found, chosen, words = Results(with_trials(plan, every)), {}, []
    for sweep in every:
        scores = {factor: found.figure(job, sweep.column) for factor, job in sweep.trials.items()}
        known = {factor: score for factor, score in scores.items() if score is not None}
        if len(known) < len(scores):
            raise InputError(f"The learning rates of {sweep.method} are not all measured. Rerun the command.")
        best = pick(known)
        chosen[sweep.method] = best
        edge = ", at the end of the sweep" if best in (min(known), max(known)) else ""
        tried = ", ".join(f"{100 * score:.1f}" for score in known.values())
        words.append(f"{sweep.method} {tried} %: {sweep.rate * best:g} ({best:g} times{edge})")
    factors = ", ".join(f"{factor:g}" for factor in FACTORS)
    sentence = (
        f"Learning rates: {factors} times the row's own were tried, with one seed and the first row of each method. "
        "The best was chosen by kNN accuracy on the train split, where each image is classified by the others: "
        f"{'; '.join(words)}. The method's other rows take the same multiple of theirs. Methods that learn from labels "
        "keep theirs."
    )
    return chosen, [sentence] if words else []


def pick(scores: dict[float, float]) -> float:
    """Factor -> accuracy; the best factor, the lowest of equal ones."""
    return min(scores, key=lambda factor: (-scores[factor], factor))


def apply(plan: Plan, chosen: dict[str, float]) -> Plan:
    """The same plan with the chosen rates, which its table and its results state; first stages keep theirs."""
    stages = {job.needs for job in plan.jobs.values()}

    def tuned(job: Job) -> Job:
        if job.config is None or job.folder in stages:
            return job
        optim = job.config.optim
        factor = chosen.get(method_of(job.config), 1.0)
        return replace(job, config=replace(job.config, optim=replace(optim, lr=optim.lr * factor)))

    scaled = replace(plan.scaled, changed=(*plan.scaled.changed, "learning rates chosen by --tune"))
    return replace(plan, scaled=scaled, jobs={folder: tuned(job) for folder, job in plan.jobs.items()})


Run = Callable[[Plan, Sequence[Job]], None]
"""(plan, its jobs): runs them, or raises InputError."""


def tune(plan: Plan, run: Run) -> tuple[Plan, list[str]]:
    """Measures what the sweeps lack -> the plan with the chosen rates, and the notes below the table."""
    every = sweeps(plan)
    trials = with_trials(plan, every)
    run(trials, list(trials.jobs.values()))
    chosen, foot = choose(plan, every)
    return apply(plan, chosen), foot
