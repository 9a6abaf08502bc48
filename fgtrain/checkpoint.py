"""What `RUN-or-CHECKPOINT` on the command line means, and the encoder found there."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from rich.console import Console
from safetensors import SafetensorError, safe_open

from fgdata.errors import InputError
from fgtrain.config import Config, Model
from fgtrain.nets import Encoder
from fgtrain.rundir import RunDir, checksum, whole

WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """An encoder file, what it says about itself, and the run it belongs to (None for a file on its own)."""

    file: Path
    model: Model
    size: int
    """Side of the views it was trained on, in pixels."""
    step: int
    crc32: int | None
    """Checksum of the weights, as the file states it."""
    run: RunDir | None

    @classmethod
    def find(cls, path: Path) -> "Checkpoint":
        """A run directory (its last checkpoint), a checkpoint folder, or an encoder.safetensors."""
        run = path if (path / "config.json").is_file() else None
        if run is None and not (path / WEIGHTS if path.is_dir() else path).exists():
            runs = sorted(p.parent.name for p in Path("runs").glob("*/config.json"))
            what = f"holds neither a run (config.json) nor an {WEIGHTS}" if path.is_dir() else "does not exist"
            raise InputError(f"{path} {what}. Runs under runs/: {', '.join(runs) or 'none'}.")
        if run is not None:
            last = RunDir(path).last_checkpoint
            if last is None:
                facts = RunDir(path).facts
                if facts.get("status") == "failed":
                    raise InputError(f"{path} has no checkpoint: its training failed. {facts.get('reason')}")
                go_on = f"fgtrain run {facts.get('name', 'NAME')} --out {quote(str(path))} --resume"
                raise InputError(f"{path} has no checkpoint yet. Continue it: {go_on}")
            path = last
        file = path / WEIGHTS if path.is_dir() else path
        try:
            with safe_open(file, "pt") as weights:
                said = (weights.metadata() or {}).get("fgtrain")
            if said is None:
                raise InputError(
                    f"{file} does not say what network it holds (no fgtrain in its metadata): it was exported or made "
                    f"elsewhere. A run may start from it: fgtrain run ... --init {quote(str(file))}"
                )
            about = json.loads(said)
            model = Model(about["backbone"], int(about["width"]), about["stem"])  # pyright: ignore[reportArgumentType]
            size, step, crc32 = int(about["size"]), int(about["step"]), about.get("crc32")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{file} is no encoder of fgtrain ({_reason(error)}). Name a run directory, a folder "
                f"under its checkpoints/, or an {WEIGHTS} inside one."
            ) from error
        home = run or file.resolve().parent.parent.parent
        return cls(file, model, size, step, crc32, RunDir(home) if (home / "config.json").is_file() else None)

    def encoder(self) -> Encoder:
        from safetensors.torch import load_file

        encoder, weights = Encoder(self.model), load_file(self.file)
        if self.crc32 not in (None, checksum(weights)):
            raise InputError(
                f"{self.file} is damaged: its weights have another checksum than it states. Name an earlier "
                "checkpoint of the run, a folder under its checkpoints/."
            )
        try:
            encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{self.file} does not hold the network that its metadata names: {error}") from error
        return encoder

    def config(self) -> Config | None:
        return self.run.config() if self.run else None

    def untrained(self) -> Encoder:
        """The weights this run started from: the same network, made from the same seed."""
        from fgtrain import objectives

        config = self.config()
        if config is None:
            raise InputError(
                f"{self.file} lies in no run directory, so its initial weights are unknown; leave out --untrained."
            )
        small = replace(config, **({"moco": replace(config.moco, queue="auto")} if hasattr(config, "moco") else {}))  # pyright: ignore
        if hasattr(small, "decoder"):  # it may be gone since, and says nothing of the encoder
            small = replace(small, decoder=None)  # pyright: ignore[reportCallIssue]
        return objectives.build(small, samples=2).encoder


def run_export(path: Path, file: Path) -> None:
    """Copies the encoder found at `path` to `file`, and says how others load it."""
    found = Checkpoint.find(path)
    if file.suffix != ".safetensors":
        raise InputError(f"{file}: the file is written as safetensors; let its name end in .safetensors.")
    if any(p.name == "checkpoints" and (p.parent / "config.json").is_file() for p in file.resolve().parents):
        raise InputError(f"{file} would lie among the checkpoints of a run; name another place.")
    found.encoder()  # a damaged one goes no further
    with whole(file) as part:
        shutil.copyfile(found.file, part)
    name = found.model.backbone
    Console(highlight=False, soft_wrap=True).print(
        f"{file}: {name}, width {found.model.width}, {found.model.stem} stem, step {found.step:,}.\n"
        f"weights = safetensors.torch.load_file({str(file)!r})\n"
        f"timm.create_model({name!r}, num_classes=0).load_state_dict(weights)\n"
        f"torchvision.models.{name}().load_state_dict(weights, strict=False)  # fc stays random"
        if (found.model.width, found.model.stem) == (64, "imagenet")
        else f"{file}: {name} of width {found.model.width} with the {found.model.stem} stem; torchvision's names, "
        "but not its standard shapes."
    )


def _reason(error: Exception) -> str:
    return f"{error} is missing in its metadata" if isinstance(error, KeyError) else str(error)
