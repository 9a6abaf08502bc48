"""The decoder of synthesized pairs and its warm-up before training (Wang et al. 2024, sections 3.2 and B.2).

The paper does not specify the layers. Ours mirror a ResNet, with group norm so an image depends only on its own vector.
"""

import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fgdata.errors import InputError, counted
from fgdata.shards.reader import ShardSet

from .. import parallel
from ..networks.encoder import Encoder
from ..place import has_bf16
from ..runs.files import raise_system_error, read_through, write_bytes
from ..runs.rundir import RunDir
from ..runs.state import checksum, damage, read_saved
from ..settings.methods import SynthPairConfig
from .loading import load_whole
from .losses import wide

FILE, UNFINISHED = "decoder.safetensors", "decoder-warmup.pt"
SAVE_SECONDS = 60.0
"""Least time between saves. A killed warm-up loses at most this and the current epoch; a stopped one nothing."""

SECONDS_BETWEEN_LINES = 10.0  # on the warm-up; its last epoch has a line too


class Decoder(nn.Module):
    """(B, dim) features -> (B, 3, size, size) float32 normalised image: a mirrored ResNet.

    A linear layer creates maps of side size / 32. Each of four stages has `depth` residual blocks, nearest x2
    upsampling and a convolution that halves the channels, from 8 * width to width / 2. A last x2 upsampling and a
    convolution produce RGB, without an activation. `size` is a multiple of 32 and `width` is even. Width 64 and depth 2
    mirror a ResNet-18: 27.0 M parameters for 2048 features and 224 px.
    """

    def __init__(self, dim: int, size: int, width: int, depth: int):
        super().__init__()
        self.shape = {"dim": dim, "size": size, "width": width, "depth": depth}
        side, channels = size // 32, [8 * width, 4 * width, 2 * width, width, width // 2]
        self.linear = nn.Sequential(nn.Linear(dim, 2 * width * side**2), nn.Unflatten(1, (2 * width, side, side)))
        self.widen = conv(2 * width, channels[0], 1)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Block(a) for _ in range(depth)), nn.Upsample(scale_factor=2), conv(a, b, 3))
                for a, b in pairwise(channels)
            )
        )
        self.rgb = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels[-1], 3, 3, padding=1))

    def forward(self, v: Tensor) -> Tensor:
        maps = self.linear(v).contiguous(memory_format=torch.channels_last)  # (B, 2 * width, S / 32, S / 32)
        return wide(self.rgb(self.stages(self.widen(maps))))

    def save(self, file: Path) -> None:
        """Writes the weights as safetensors, with the shape and a checksum as metadata.

        InputError when the file cannot be written.
        """
        weights = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        about = json.dumps({**self.shape, "crc32": checksum(weights)}, sort_keys=True)
        write_bytes(file, save(weights, metadata={"fgtrain_decoder": about}))

    def check(self, file: Path) -> int | None:
        """Raises InputError unless the file is a decoder of this shape. Reads only its header, returns its checksum."""
        if not file.is_file():
            what = "is not a regular file" if os.path.lexists(file) else "does not exist"
            raise InputError(f"--decoder {file} {what}. Name the {FILE} of a run of synth-pair.")
        try:
            read_through(file)
            with safe_open(file, "pt") as weights:
                shape = json.loads((weights.metadata() or {})["fgtrain_decoder"])
                stored = {k: list(weights.get_slice(k).get_shape()) for k in weights.keys()}  # noqa: SIM118
            crc32 = shape.pop("crc32", None)
        except Exception as error:  # SafetensorError, and whatever damaged metadata leads to
            raise_system_error(f"--decoder {file}", error)
            raise InputError(
                f"--decoder {file} is not a decoder of fgtrain ({type(error).__name__}: {error}). Name the {FILE} of a "
                "run of synth-pair."
            ) from error
        if shape != self.shape:
            flags = {"dim": "the encoder's features", "size": "--views.size"}
            differences = [
                f"{flags.get(k, '--reconstruct.' + k)}: {shape.get(k)} in the file, {v} here"
                for k, v in self.shape.items()
                if shape.get(k) != v
            ]
            raise InputError(
                f"--decoder {file} has a different shape.\n  "
                + "\n  ".join(differences)
                + "\nChange these flags to match, "
                f"or omit --decoder {quote(str(file))} to warm up a new decoder."
            )
        if stored != {k: list(v.shape) for k, v in self.state_dict().items()}:
            raise InputError(
                f"--decoder {file} is damaged: its tensors do not match the shape in its metadata. {self._remedy(file)}"
            )
        return crc32

    def load(self, file: Path) -> None:
        """Loads the weights of `file`. InputError unless it is an undamaged decoder of this shape."""
        crc32 = self.check(file)
        try:
            weights = load_file(file)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise_system_error(f"--decoder {file}", error)
            raise InputError(f"--decoder {file} cannot be read: {error}. {self._remedy(file)}") from error
        if crc32 not in (None, checksum(weights)):
            raise InputError(f"--decoder {file} is damaged: its checksum differs. {self._remedy(file)}")
        if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise InputError(f"--decoder {file}: {bad[0]} has values that are not finite. {self._remedy(file)}")
        self.load_state_dict(weights)

    @staticmethod
    def _remedy(file: Path) -> str:
        return f"Name another {FILE}, or remove this one and let the run warm up a new decoder: rm {quote(str(file))}"


class Block(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): torchvision's BasicBlock with group norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = conv(channels, channels, 3), conv(channels, channels, 3)[:-1]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution - group norm of at most 8 groups - ReLU, without a change of height and width."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(math.gcd(8, outputs), outputs),
        nn.ReLU(inplace=True),
    )


def warm_up(
    decoder: Decoder,
    encoder: Encoder,
    config: SynthPairConfig,
    run: RunDir,
    shards: ShardSet,
    device: torch.device,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> bool:
    """(all) Trains only the decoder, on plain images: MSE on normalised pixels, Adam at a constant rate. Each process
    computes a part of each batch.

    Returns True when complete. Returns False when `stop()` ended it; the next call resumes after its last step.

    The encoder is frozen; its batch norm uses the statistics of the batch, as in the training that follows. The warm-up
    runs a copy of it, because the running statistics of the original must not change.
    """
    settings, unfinished, world = config.reconstruct, run.path / UNFINISHED, parallel.world_size()
    with torch.random.fork_rng(devices=[]):
        frozen = Encoder(replace(config.model, drop_path=0.0))  # an unfinished warm-up has no random state
    frozen.load_state_dict(encoder.state_dict())
    frozen.freeze(config.freeze_stages)
    frozen.hold = encoder.hold
    frozen.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(decoder.parameters(), lr=settings.lr)
    size = max(2, min(settings.batch_size, len(shards.split(config.data.split))) // world)
    loader = load_whole(config, shards, encoder, device, batch_size=size)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device) and config.precision != "fp32")
    epoch = 0
    with parallel.together():
        if unfinished.is_file():
            epoch = restore(unfinished, settings.epochs, decoder, optimizer, loader)
    model = parallel.averaged(decoder, device)
    resumed = f", resumed after epoch {epoch}" if epoch else ""
    say(f"Decoder warm-up: {counted(settings.epochs, 'epoch')}{resumed}")
    last_save = last_line = time.perf_counter()

    def save_state() -> None:
        state = {"epoch": epoch, "decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()}
        content = io.BytesIO()
        torch.save({**state, "loader": loader.state_dict()}, content)
        with parallel.together():
            if parallel.rank() == 0:
                write_bytes(unfinished, content.getvalue())

    with loader:
        while epoch < settings.epochs:
            losses, constants = [], []
            for batch in loader:
                x = batch["plain"].to(device, non_blocking=True)
                with bf16:
                    with torch.no_grad():
                        v = frozen(x).pooled
                    loss = F.mse_loss(model(v), x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                constants.append(mean_image_error(x))
                stopping = parallel.any_of(stop())
                if stopping and loader.state_dict()["batch"] > 0:  # 0: at the end of an epoch
                    save_state()
                    return False
            epoch += 1
            means = torch.stack([torch.stack(losses), torch.stack(constants)]).mean(1)
            error, constant = parallel.gather(means[None]).mean(0).cpu().tolist()
            with parallel.together():
                if not math.isfinite(error):
                    raise InputError(
                        f"The decoder's loss became {error} in warm-up epoch {epoch}. Lower --reconstruct.lr, now "
                        f"{settings.lr:g}."
                    )
            if epoch == settings.epochs or time.perf_counter() - last_line >= SECONDS_BETWEEN_LINES:
                say(f"warm-up epoch {epoch}/{settings.epochs}  reconstruct {error:.4f}  mean image {constant:.4f}")
                last_line = time.perf_counter()
            stopping = parallel.any_of(stop())
            if epoch < settings.epochs and (
                stopping or parallel.any_of(time.perf_counter() - last_save >= SAVE_SECONDS)
            ):
                save_state()
                last_save = time.perf_counter()
            if stopping:
                break
    return epoch == settings.epochs


def mean_image_error(x: Tensor) -> Tensor:
    """(B, 3, S, S) images -> (): the squared error of their mean image over all data, estimated from this batch.

    A decoder that ignores the features cannot do better. It is the unbiased variance, averaged over pixels.
    """
    return (x - x.mean(0)).square().sum(0).mean() / max(1, len(x) - 1)


def restore(unfinished: Path, epochs: int, decoder: Decoder, optimizer: torch.optim.Optimizer, loader: Any) -> int:
    """Restores an interrupted warm-up and returns its completed epochs. InputError when its state is damaged."""
    try:
        state = read_saved(unfinished)
        epoch = state["epoch"]
        if not (isinstance(epoch, int) and 0 <= epoch < epochs):
            raise ValueError(epoch)
        if not all(value.isfinite().all() for value in state["decoder"].values()):
            raise ValueError("not finite")
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
    except Exception as error:  # damaged content leads torch and the loader into errors of many types
        raise_system_error(str(unfinished), error)
        raise InputError(
            f"{unfinished} cannot be used: {damage(unfinished, error)}. Remove it and rerun the command to "
            f"warm up the decoder from the start:\n  rm {quote(str(unfinished))}"
        ) from error
    return epoch
