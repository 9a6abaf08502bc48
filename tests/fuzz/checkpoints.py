"""Checkpoints of other projects for --init: torch files old and new, safetensors, and files that are neither."""

import pickle
from io import BytesIO
from pathlib import Path
from random import Random

from . import corrupt, shards
from .commands import fgtrain, preload
from .runs import SMALL, corrupt_safetensors

PRELOAD = (
    "fgtrain.engine.lifecycle",
    "fgtrain.networks.initial",
    "fgtrain.runs.checkpoint",
    "cv2",
)
FILES = ("plain.pth", "moco.pth", "old.pth", "teacher.pth", "weights.safetensors")


def prepare(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from fgtrain.networks.encoder import Encoder
    from fgtrain.settings.common import Model

    preload(*PRELOAD)
    shards.prepare(folder)
    weights = {k: v.clone() for k, v in Encoder(Model(width=8)).state_dict().items()}
    moco = {f"module.encoder_q.{k}": v for k, v in weights.items()} | {"module.queue": torch.zeros(8, 4)}
    torch.save(weights, folder / "plain.pth")
    torch.save({"epoch": 3, "state_dict": moco, "optimizer": {"lr": 0.1}}, folder / "moco.pth")
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)
    both = {"teacher": {k: v + 1 for k, v in weights.items()}, "student": weights}
    torch.save(both, folder / "teacher.pth")
    save_file(weights, folder / "weights.safetensors")


COMMANDS = {
    name: lambda name=name: fgtrain("run", "simclr", *SMALL, "--init", name, "--out", "run", steps=1)  # pyright: ignore
    for name in FILES
}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    path = here / command
    if path.suffix == ".safetensors" and path.is_file() and rng.random() < 0.7:  # an earlier step may have removed it
        return corrupt_safetensors(rng, path)
    if rng.random() < 0.5:
        return corrupt.corrupt_file(rng, path)
    corrupt.remove(path)
    return hostile(rng, path)


def hostile(rng: Random, path: Path) -> str:
    """Another kind of content under the same name."""
    import torch

    kinds = "pickle module list numpy expanded nan keys nested sparse half zip start vit numbered"
    kind = rng.choice(kinds.split())
    tensor = torch.zeros(2, 3, 7, 7)
    content: object = {"conv1.weight": tensor}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": [1, 2]}))
        return f"{path.name}: pickle"
    if kind == "zip":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        return f"{path.name}: zip"
    if kind == "start":
        path.write_bytes(b"PK\x03\x04")
        return f"{path.name}: start of a zip"
    if kind == "module":
        content = torch.nn.Linear(2, 2)
    elif kind == "list":
        content = [tensor]
    elif kind == "numpy":
        content = {"conv1.weight": tensor.numpy()}
    elif kind == "expanded":
        content = {"conv1.weight": torch.zeros(1).expand(1 << 36)}
    elif kind == "nan":
        content = {"state_dict": {"conv1.weight": tensor * torch.nan, "layer1.0.conv1.weight": tensor}}
    elif kind == "keys":
        content = {1: tensor, None: tensor, "": tensor, "[red]": tensor, "conv1.weight": tensor, "a\nb": tensor}
    elif kind == "nested":
        for _ in range(200):
            content = {"state_dict": content}
    elif kind == "sparse":
        content = {"conv1.weight": torch.zeros(4, 4).to_sparse(), "bn1.weight": torch.zeros(2, dtype=torch.complex64)}
    elif kind == "vit":  # names that are converted
        names = ("embeddings.cls_token", "layers.0.attention.q_proj.weight", "encoder.layer.x.norm1.bias", "mask_token")
        content = dict.fromkeys(names, tensor)
    elif kind == "numbered":
        content = {f"{i}.0.conv1.weight": tensor for i in (0, 3, 10**9)} | {"5.": tensor, ".5": tensor}
    elif kind == "half":
        content = {"conv1.weight": tensor.half(), "bn1.weight": torch.zeros(2, dtype=torch.int8)}
    torch.save(content, stream := BytesIO())
    path.write_bytes(stream.getvalue())
    return f"{path.name}: {kind}"
