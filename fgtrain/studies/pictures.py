"""Pictures of a study's runs on the same images: Grad-CAM, as in CVSA's Figure 4, and synthesized pairs, as in Figure 3
of their paper."""

from pathlib import Path

from fgdata.shards.reader import meta

from ..place import open_shards
from ..settings.methods import SynthPairConfig
from ..settings.pictures import Gradcam, Pairs
from ..show.gradcam import MOST_RUNS, draw_gradcam
from ..show.pairs import draw_pairs
from ..show.sheet import choose, default_split
from .plan import Job, Plan, name_folders

IMAGES, SEED = 6, 0
LEAST_SIZE = 128
"""Pixels: a smaller image has a map of less than 4 x 4 positions at stride 32."""


def draw(plan: Plan, device: str) -> list[Path]:
    """Draws the finished runs of the first set and seed, in the order of the rows -> the files, in pictures/.

    A sheet of Grad-CAM holds as many runs as fit, the base row first; synthesized pairs have a sheet for each run. Rows
    that measure given weights as they are have no run, and are not drawn.
    """
    runs = finished(plan)
    if not runs:
        return []
    data = open_shards(plan.scaled.study.sets[plan.scaled.study.columns[0].set].folder)
    split = default_split(data, None)
    reader = data.split(split)
    numbers = choose(data, split, (), min(IMAGES, len(reader)), SEED)
    ids = tuple(meta(reader.read(int(number)))["id"] for number in numbers)
    shared = {"shards": data.path, "split": split, "ids": ids, "seed": SEED}
    folder, files = plan.out / "pictures", []
    first = {name: job for name, job in runs.items() if name == plan.scaled.study.base}
    others = [name for name in runs if name not in first]
    count = MOST_RUNS - len(first)
    for start in range(0, max(1, len(others)), count):
        sheet = {**first, **{name: runs[name] for name in others[start : start + count]}}
        named = {"runs": tuple(job.folder for job in sheet.values()), "labels": tuple(sheet)}
        named |= {"size": max(LEAST_SIZE, plan.scaled.size)}
        out = folder / f"gradcam-{start // count + 1}.png"
        files.append(draw_gradcam(Gradcam(**named, **shared, device=device, out=out)))
    names = name_folders(plan.scaled)
    for name, job in runs.items():
        if isinstance(job.config, SynthPairConfig):
            files.append(draw_pairs(Pairs(job.folder, **shared, out=folder / f"pairs-{names[name]}.png")))
    return files


def finished(plan: Plan) -> dict[str, Job]:
    """Row -> its finished run on the first set with the first seed."""
    study = plan.scaled.study
    jobs = {row.name: plan.job(row.name, study.columns[0].name, study.seeds[0]) for row in study.rows}
    return {name: job for name, job in jobs.items() if job is not None and job.config is not None and job.trained}
