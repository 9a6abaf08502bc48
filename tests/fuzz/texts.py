"""What a user hands to a command besides sets and runs: settings in YAML, a study, a list of labels, a decoder."""

from pathlib import Path
from random import Random

from . import corrupt, runs, shards
from .commands import fgtrain, preload

PRELOAD = (*runs.PRELOAD, "fgtrain.studies.command", "fgtrain.objectives.synth_pair", "yaml", "cv2")
PAIRS = (*runs.SMALL, "--views.size", 32, "--reconstruct.width", 4, "--base", "simsiam")
YAML = "epochs: 2\noptim:\n  lr: 1e-3  # a number\nviews.crop: inside-box\ninit: null\ndata: {batch_size: 4}\n"
YAML_TRAPS = (
    "epochs: !!python/object/apply:os.system ['touch ../outside/x']\n",
    "epochs: !!python/name:os.system\n",
    "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nepochs: [*b,*b,*b,*b]\n",
    "epochs: &a [*a]\n",
    "<<: {epochs: 3}\n",
    "? [1, 2]\n: 3\n",
    "epochs: 0x7fffffffffffffffffffff\n",
    "epochs: 2024-01-01\n",
    "--- 1\n--- 2\n",
    "%YAML 9.9\n---\nepochs: 3\n",
    "epochs: " + "[" * 2000 + "\n",
)
STUDY = """title = "Two rows"
base = "BYOL"
seeds = [3, 4]
[settings]
epochs = 2
[sets.mine]
title = "My birds"
path = "set"
[[columns]]
evaluation = "knn"
sets = ["mine"]
settings = { k = 2 }
[[rows]]
name = "BYOL"
recipe = "byol"
paper = [64.85]
[[rows]]
name = "MoCo"
recipe = "moco"
settings = { optim.lr = 0.1, moco.queue = 512 }
"""
STUDY_TRAPS = (
    'path = "../../../dev/zero"\n',
    "epochs = inf\n",
    "epochs = 1979-05-27T07:32:00Z\n",
    'recipe = "../simclr"\n',
    'name = "../../outside/x"\n',
    "a = " + "[" * 2000 + "\n",
    '[sets."<b>"]\n',
    "[[rows]]\n[[rows]]\n",
    "a.b.c.d.e.f = 1\n",
)


def prepare(folder: Path) -> None:
    import os
    import shutil

    from fgdata.shards.reader import ShardSet, meta, read_all

    preload(*PRELOAD)
    shards.prepare(folder)
    (folder / "mine.yaml").write_text(YAML)
    (folder / "own.toml").write_text(STUDY)
    samples = [meta(sample) for sample in read_all(ShardSet.open(folder / "set").split("train"), without="jpg")]
    (folder / "labels.txt").write_text("".join(f"{sample['id']} {sample['class']}\n" for sample in samples))
    before = os.getcwd()
    try:
        os.chdir(folder)
        assert fgtrain("run", "simclr", *runs.SMALL, "--out", "run", steps=10**6) == 0
        assert fgtrain("run", "synth-pair", *PAIRS, "--reconstruct.epochs", 1, "--out", "pairs", steps=1) == 0
        shutil.copy("pairs/decoder.safetensors", "decoder.safetensors")
    finally:
        os.chdir(before)


COMMANDS = {
    "mine.yaml": lambda: fgtrain("run", "simclr", "--config", "mine.yaml", *runs.SMALL, "--out", "new", steps=1),
    "own.toml": lambda: fgtrain("study", "own.toml", "--dry-run", "--device", "cpu"),
    "labels.txt": lambda: fgtrain("eval", "linear", "run", "--labels", "labels.txt", "--epochs", 1),
    "decoder.safetensors": lambda: fgtrain(
        *("run", "synth-pair", *PAIRS, "--decoder", "decoder.safetensors", "--out", "new"), steps=1
    ),
}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    path = here / command
    if not corrupt.is_regular(path):
        return f"{command} is already corrupted"
    if path.suffix == ".safetensors" and rng.random() < 0.7:
        return runs.corrupt_safetensors(rng, path)
    traps = {".yaml": YAML_TRAPS, ".toml": STUDY_TRAPS}.get(path.suffix, ())
    if traps and rng.random() < 0.4:
        lines = path.read_bytes().splitlines(keepends=True)
        at, trap = rng.randrange(len(lines) + 1), rng.choice(traps)
        path.write_bytes(b"".join((*lines[:at], trap.encode(), *lines[at:])))
        return f"{command}: a trap in line {at + 1}: {trap[:40]!r}"
    return corrupt.corrupt_file(rng, path)
