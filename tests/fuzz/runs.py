"""Run folders: config.json, run.json, the lines of metrics, results and finetune, checkpoints."""

import struct
from io import BytesIO
from pathlib import Path
from random import Random

from . import corrupt, shards
from .commands import fgdata, fgtrain, preload

PRELOAD = ("fgtrain.engine.lifecycle", "fgtrain.commands", "fgtrain.evaluate.report", "fgtrain.show.curves", "cv2")
PRELOAD = (*PRELOAD, "fgtrain.evaluate.tables", "fgtrain.evaluate.finetune", "fgtrain.networks.saved")
SMALL = "--model.width 8 --views.size 16 --data.batch-size 4 --epochs 2 --device cpu --threads 1 --log-every 1".split()
SMALL += ["--data.shards", "set"]


def prepare(folder: Path) -> None:
    import os

    preload(*PRELOAD)
    shards.prepare(folder)
    before = os.getcwd()
    try:
        os.chdir(folder)
        for seed in (0, 1):
            run = f"runs/{seed}"
            assert fgtrain("run", "simclr", *SMALL, "--seed", seed, "--out", run, steps=10**6) == 0
            assert fgtrain("eval", "knn", run, "--k", 2) == 0
        assert fgtrain("eval", "finetune", *TUNE) == 0
    finally:
        os.chdir(before)


TUNE = "runs/0 --epochs 1 --batch-size 2 --rates 0.1 0.01 --decays 0.0001 --trials 2".split()
COMMANDS = {
    "compare": lambda: fgtrain("compare", "runs/0", "runs/1"),
    "compare-json": lambda: fgtrain("compare", "runs/0", "runs/1", "--format", "json"),
    "list": lambda: fgtrain("list"),
    "curves": lambda: fgtrain("show", "curves", "runs/0", "runs/1", "--out", "c.png"),
    "knn": lambda: fgtrain("eval", "knn", "runs/0", "--k", 2, "--untrained"),
    "retrieval": lambda: fgtrain("eval", "retrieval", "runs/0"),
    "finetune": lambda: fgtrain("eval", "finetune", *TUNE),
    "export": lambda: fgtrain("export", "runs/0", "e.safetensors"),
    "resume": lambda: fgtrain("run", "simclr", "--out", "runs/0", "--resume", steps=6),
    "config": lambda: fgtrain("run", "simclr", "--config", "runs/0/config.json", "--out", "runs/2"),
    "init": lambda: fgtrain("run", "simclr", *SMALL, "--init", "runs/0", "--out", "runs/2"),
    "views": lambda: fgtrain("show", "views", "runs/0", "--rows", 2, "--size", 32),
    "check": lambda: fgdata("list", "--folder", "runs"),
}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    run = here / "runs" / "0"
    files = corrupt.regular_files(run)
    if not files or rng.random() < 0.08:
        return corrupt.add_odd_name(rng, rng.choice((here / "runs", run, run / "checkpoints")), b"{}")
    wanted = {
        **dict.fromkeys(("compare", "compare-json"), ("results.jsonl", "run.json", "config.json")),
        **dict.fromkeys(("curves",), ("metrics.jsonl", "config.json")),
        **dict.fromkeys(("finetune",), ("finetune.jsonl", "results.jsonl")),
        **dict.fromkeys(("knn", "retrieval", "export", "init"), ("encoder.safetensors", "config.json", "run.json")),
        **dict.fromkeys(("resume",), ("state.pt", "encoder.safetensors", "config.json", "run.json", "metrics.jsonl")),
        **dict.fromkeys(("config", "views"), ("config.json", "run.json")),
    }.get(command, ())
    some = [path for path in files if path.name in wanted] if rng.random() < 0.8 else []
    path = rng.choice(some or files)
    if path.suffix == ".safetensors" and rng.random() < 0.6:
        return corrupt_safetensors(rng, path)
    if path.name == "state.pt" and rng.random() < 0.6:
        return corrupt_state(rng, path)
    return corrupt.corrupt_file(rng, path)


def corrupt_safetensors(rng: Random, path: Path) -> str:
    """The JSON header of a safetensors file, and the JSON inside its metadata."""
    import json

    data = path.read_bytes()
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        meta = header.get("__metadata__", {})
        if rng.random() < 0.6 and "fgtrain" in meta:
            tree, what = corrupt.corrupt_tree(rng, json.loads(meta["fgtrain"]))
            meta["fgtrain"] = corrupt.dump_json(tree).decode("utf-8", "replace")
        else:
            header, what = corrupt.corrupt_tree(rng, header)
    except (ValueError, struct.error, AttributeError, TypeError, RecursionError):
        return corrupt.corrupt_file(rng, path)
    text = corrupt.dump_json(header)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return f"{path.name}: {what}"


def corrupt_state(rng: Random, path: Path) -> str:
    """state.pt with one value replaced, dropped or of another shape."""
    import torch

    try:
        state = torch.load(path, weights_only=True)
    except Exception:
        return corrupt.corrupt_file(rng, path)
    places = [place for place in corrupt._places(state, ()) if "param_groups" not in place[2]]
    holder, key, where = rng.choice(places)
    kind = rng.choice(("drop", "value", "tensor", "nan"))
    if kind == "drop":
        del holder[key]
    elif kind == "nan" and isinstance(holder[key], torch.Tensor) and holder[key].is_floating_point():
        holder[key] = torch.full_like(holder[key], torch.nan)
    elif kind == "value":
        markers = (corrupt.HUGE, corrupt.DEEP, corrupt.RAW, "\ud800")
        holder[key] = rng.choice([v for v in corrupt.VALUES if v not in markers])
    else:
        holder[key] = torch.zeros(rng.choice(((), (0,), (3, 3), (2,))))
    torch.save(state, stream := BytesIO())
    path.write_bytes(stream.getvalue())
    return f"state.pt: {kind} {'.'.join(map(str, where))}"
