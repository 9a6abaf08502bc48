"""The picture of synthesized pairs: images decoded from an image's features, without and with added noise.

Everything comes from state.pt of the run's last checkpoint: the decoder, the bank of features that selects the
dimensions that get low-variance noise, and the networks that score the others. Pairs are synthesized as in training,
with the statistics of the batch; `seed` decides the noise.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fgdata.errors import InputError
from fgdata.views import ViewSpec, load

from .. import objectives
from ..evaluate.subject import open_set
from ..networks.norm import hold_statistics
from ..objectives.losses import wide
from ..objectives.synth_pair import SynthPair
from ..printing import say
from ..runs.checkpoint import Checkpoint
from ..runs.files import whole
from ..runs.state import load_state
from ..settings.methods import SynthPairConfig
from ..settings.pictures import Pairs
from .layout import layout
from .sheet import caption, check_rows, choose, default_split, first_in, pixels

BATCH = 64
"""Images per batch, of which the first are drawn. The scores compare an image with the others of its batch."""
CELL = 160  # minimum side of an image in the picture, in pixels


def draw_pairs(flags: Pairs) -> Path:
    """Writes the sheet and returns its path: per row an image, two decoded images and their difference.

    The first is decoded from the features of the image, the second from the features with added noise. Between them is
    the mean image of the batch, which is what a decoder that learned nothing gives.
    """
    checkpoint, rows, seed = Checkpoint.find(flags.run), len(flags.ids) or flags.rows, flags.seed
    objective = load_objective(checkpoint)
    data = open_set(flags.shards, checkpoint.run)
    split = default_split(data, flags.split)
    check_rows(rows, data, split, most=BATCH)
    if flags.ids:
        data = first_in(data, split, choose(data, split, flags.ids, rows, seed), BATCH, seed)
    reader = data.split(split)
    size, shuffle = min(BATCH, len(reader)), not flags.ids
    with load(data, views=objective.views, batch_size=size, split=split, seed=seed, shuffle=shuffle) as loader:
        batch = next(iter(loader))
    x, x_hat, x_p, noise = pairs(objective, batch, seed)
    spec, gain = objective.views, visible(x_p - x_hat, objective.views)
    mean = x.mean(0)
    errors = [(other - x).square().mean().item() for other in (x_hat, mean)]
    cells = []
    for i in range(rows):
        decoded, perturbed = (pixels(images[i].numpy(), spec) for images in (x_hat, x_p))
        constant = pixels(mean.numpy(), spec)
        change = (128 + gain * (perturbed.astype(float) - decoded)).round().clip(0, 255).astype(np.uint8)
        cells.append([enlarged(image) for image in (pixels(x[i].numpy(), spec), decoded, constant, perturbed, change)])
    captions = [caption(data, reader.read(number)) for number in batch["index"][:rows].tolist()]
    heads = [("image", 1), ("decoded", 1), ("mean image", 1), ("with noise", 1), (f"difference x {gain}", 1)]
    sheet = layout(cells, captions, heads, cells[0][0].width)
    out = flags.out or (checkpoint.run.path if checkpoint.run else Path()) / "pairs.png"
    with whole(out) as part:
        sheet.save(part, out.suffix)
    say(
        f"{out}: {rows} images of {data.path} ({split}), step {checkpoint.step:,}; "
        f"the noise is {noise:.1%} of the features\n"
        f"Squared error of the decoded images {errors[0]:.3f}, of the mean image of the batch {errors[1]:.3f} (pixels "
        "normalised)" + (": the decoder is no better than a constant" if errors[0] >= errors[1] else "")
    )
    return out


def load_objective(checkpoint: Checkpoint) -> SynthPair:
    """The whole objective of a synth-pair checkpoint, in training mode. InputError when another method trained it."""
    config = checkpoint.config()
    if not isinstance(config, SynthPairConfig):
        what = f"a run of {config.method}" if config else "an encoder outside a run directory"
        raise InputError(
            f"{checkpoint.file.parent} is {what}; show pairs needs a decoder, which only a run of synth-pair has. "
            "Train one: fgtrain run synth-pair"
        )
    state = load_state(checkpoint.file.parent)
    weights = state.get("objective", {})
    config = replace(config, init="", decoder=None)  # every weight comes from the checkpoint
    queue = len(weights.get("base.queue.keys", ()))
    if queue:
        config = replace(config, moco=replace(config.moco, queue=queue))
    objective = objectives.build(config, samples=queue)
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint.file.parent / 'state.pt'} does not hold the objective that the run's config.json describes: "
            f"{' '.join(str(error).split())[:200]}. Restore both files, or name another checkpoint of the run."
        ) from None
    objectives.normalise(objective, state)
    return objective.train()


@torch.no_grad()
def pairs(objective: SynthPair, batch: dict[str, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """-> x, decoder(v), decoder(v + noise), each (B, 3, S, S) normalised, and |noise| / |v|; v are features of x."""
    x = batch["plain"]
    with torch.random.fork_rng(devices=[]), hold_statistics(objective):
        torch.manual_seed(seed)
        v = wide(objective.encoder(x).pooled)
        v_p, logs = objective.perturb(v, batch["views"][1])
        return x, objective.decoder(v), objective.decoder(v_p), logs["noise"].item()


def visible(change: Tensor, spec: ViewSpec) -> int:
    """Normalised differences -> the power of two that scales their 99th percentile to the range of grey levels."""
    size = (change * torch.tensor(spec.std)[:, None, None]).abs().flatten()[::7].quantile(0.99).item()
    return 2 ** max(0, math.floor(math.log2(0.5 / max(size, 1e-3))))


def enlarged(rgb: np.ndarray) -> Image.Image:
    """The image enlarged by a whole factor to a width of CELL pixels or more, without interpolation."""
    image = Image.fromarray(rgb)
    times = max(1, math.ceil(CELL / image.width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
