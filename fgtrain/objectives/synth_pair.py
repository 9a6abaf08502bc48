"""Synthesized pairs (Wang et al., ECCV 2024) on MoCo v2 or SimSiam. A decoder reconstructs an image from its features,
once unchanged and once with noise in the features that matter least; the two reconstructions are a positive pair."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgdata.shards.reader import ShardSet
from fgdata.views import Loader

from .. import parallel
from ..networks.encoder import Encoder
from ..networks.norm import hold_statistics
from ..runs.rundir import RunDir
from ..settings.methods import SynthPairConfig
from . import decoder
from .bases import Logs, Moco, Simsiam
from .losses import mean_of_finite, nt_xent, unit, wide


class SynthPair(nn.Module):
    """L = L_C + alpha * L_R + nu * L_Cp (Eq. 8). Negatives come from the batch, so gradients cannot accumulate.

    The paper does not specify the temperature, the batch-norm statistics of decoded images (pair.statistics) or the
    normalisation of the bank (pair.bank_normalize); these are our choices.
    """

    accumulates, prepared_by_all = False, True
    bank: Tensor
    stored: Tensor

    def __init__(self, config: SynthPairConfig, samples: int):
        super().__init__()
        self.config, self.pair = config, config.pair
        self.base = Moco(config, samples) if config.base == "moco" else Simsiam(config, samples)
        self.views = replace(self.base.views, plain=True)
        self.rates = {f"base.{prefix}": rate for prefix, rate in self.base.rates.items()}
        n = self.base.encoder.dim
        self.decoder = decoder.Decoder(n, config.views.size, config.reconstruct.width, config.reconstruct.depth)
        if config.decoder is not None and not config.machine.resume:  # a resumed run has its own copy
            self.decoder.check(config.decoder)
        self.register_buffer("bank", torch.zeros(config.pair.bank, n))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))
        self.selected: list[Tensor] = []  # share of the dimensions with low-variance noise, per step of this epoch
        self.errors: list[Tensor] = []  # squared errors of the decoder and of the mean image, per step of this epoch
        self.warned: set[str] = set()

    @property
    def encoder(self) -> Encoder:
        return self.base.encoder

    def prepare(
        self,
        run: RunDir,
        shards: ShardSet,
        device: torch.device,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """(all) Sets the decoder's weights before the first step: from this run, from --decoder, or by a warm-up.

        Afterwards the run contains them as decoder.safetensors. A warm-up that `stop()` ended resumes on the next call.
        """
        file, config, arguments = run.path / decoder.FILE, self.config, (run, shards, device, say, stop)
        with parallel.together():
            ready = file if file.is_file() else config.decoder
            if ready is not None:
                self.decoder.load(ready)
        complete = ready is not None
        if not complete and config.reconstruct.epochs:
            complete = decoder.warm_up(self.decoder, self.encoder, config, *arguments)
        with parallel.together():
            if complete and ready != file and parallel.rank() == 0:
                self.decoder.save(file)
                (run.path / decoder.UNFINISHED).unlink(missing_ok=True)

    def forward(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Logs]:
        pair, views, x = self.pair, batch["views"], batch["plain"]
        contrast, logs, online, _ = self.base.compare(views, progress)  # L_C
        v = wide(self.encoder(x).pooled)  # (B, n)
        x_hat = self.decoder(v)
        reconstruct = F.mse_loss(x_hat, x)  # L_R, Eq. 2, on normalised pixels
        loss = contrast + pair.alpha * reconstruct
        logs |= {"reconstruct": reconstruct.detach(), "mean_image": decoder.mean_image_error(x)}
        self.errors.append(torch.stack([logs["reconstruct"], logs["mean_image"]]))
        if self.training:
            self.remember(v.detach())
        if pair.nu > 0:
            v_p, measured = self.perturb(v.detach(), views[1], online[1].pooled if len(online) > 1 else None)
            with torch.no_grad():
                x_p = self.decoder(v_p)
            similarity_loss = self.compare(x_hat.detach(), x_p)  # L_Cp
            loss = loss + pair.nu * similarity_loss
            logs |= {"pair": similarity_loss.detach(), **measured}
        return loss, logs

    @torch.no_grad()
    def remember(self, v: Tensor) -> None:
        """Replaces the oldest rows of the bank by the features `v` (B, n) of all processes."""
        size, rows = len(self.bank), parallel.gather(v)
        slots = (self.stored + torch.arange(len(rows), device=v.device)[-size:]) % size
        self.bank[slots] = rows[-size:]
        self.stored += len(rows)

    @torch.no_grad()
    def perturb(self, v: Tensor, view: Tensor, v_2: Tensor | None = None) -> tuple[Tensor, Logs]:
        """v (B, n), x'' (B, 3, S, S), f(x'') (B, n) if already computed -> v_p (B, n), logs.

        Draws from the device's torch generator, which checkpoints include.
        """
        pair, logs, v_p = self.pair, {}, v
        if pair.perturb == "random":
            v_p = v_p + pair.eps_gradcam * torch.randn_like(v)
        if pair.perturb in ("both", "gradcam"):
            eta = self.score(v, view, v_2)
            v_p = v_p + pair.eps_gradcam * (1 - min_max(eta)) * torch.randn_like(v)  # Eq. 5
            logs["eta_zero"] = (eta == 0).float().mean()
        if pair.perturb in ("both", "low-variance"):
            s = variance(self.bank, self.stored, pair.bank_normalize)  # (n,)
            low = s <= s.quantile(pair.kappa_quantile) if pair.kappa_quantile else s < pair.kappa
            v_p = v_p + pair.eps_variance * (1 - min_max(s)) * low * torch.randn_like(v)  # Eq. 6
            logs["selected"] = low.float().mean()
            self.selected.append(logs["selected"])
        logs["noise"] = (v_p - v).norm() / v.norm().clamp(min=1e-12)
        return v_p, logs

    def score(self, v: Tensor, view: Tensor, v_2: Tensor | None = None) -> Tensor:
        """v (B, n), x'' (B, 3, S, S), f(x'') (B, n) if already computed -> eta = ReLU(d l_c / d v * v) (B, n), Eq. 3.

        l_c compares g(v) and g(f(x'')). Accumulates no gradient and does not update batch norm. The head runs in
        float32, because half precision would round small gradients to zero, which Eq. 3 treats as least important.
        """
        encoder, head = self.encoder, self.base.projector
        with hold_statistics(encoder, head), torch.no_grad():
            other = encoder(view).pooled if v_2 is None else v_2.detach()
            with torch.autocast(v.device.type, enabled=False):
                z_2 = parallel.gather(unit(head(other.to(v.dtype))))
                with torch.enable_grad():
                    leaf = v.detach().requires_grad_()
                    z = concatenate_ranks(unit(head(leaf)))
                    l_c = nt_xent(z, z_2, self.pair.tau, denominator=self.pair.denominator)
                    (slope,) = torch.autograd.grad(l_c, leaf)
        return F.relu(slope * v)

    def compare(self, x_hat: Tensor, x_p: Tensor) -> Tensor:
        """(B, 3, S, S), (B, 3, S, S) -> (). L_Cp, Eq. 7: each image against all decoded images of all processes."""
        b, networks = len(x_hat), (self.encoder, self.base.projector)
        with hold_statistics(*networks) if self.pair.statistics == "real" else nullcontext():
            z_hat, z_p = (unit(self.base.projector(self.encoder(x).pooled)) for x in (x_hat, x_p))
        z_hat, z_p = parallel.gather_with_grad(z_hat), parallel.gather_with_grad(z_p)
        own = slice(parallel.rank() * b, (parallel.rank() + 1) * b)  # gradients are averaged over processes
        return nt_xent(z_hat, z_p, self.pair.tau, own, self.pair.denominator)

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)

    def after_epoch(self, epoch: int, loader: Loader, say: Callable[[str], None]) -> None:
        """Warns once about each way in which a whole epoch had no effect: low-variance noise in no dimension, or in
        every one, and a decoder that is no better than the mean image."""
        (share,) = mean_of_finite(self.selected, [0.5])
        if share in (0, 1) and self.pair.kappa_quantile < 1 and "selected" not in self.warned:
            self.warned.add("selected")
            say(
                f"low-variance noise: {'no' if share == 0 else 'every'} dimension was selected in this epoch by "
                f"--pair.kappa {self.pair.kappa:g} with --pair.bank-normalize {self.pair.bank_normalize}. To select a "
                "fraction of them: --pair.kappa-quantile 0.2"
            )
        error, constant = mean_of_finite(self.errors, [0.0, 1.0])
        if error >= constant and "decoder" not in self.warned:
            self.warned.add("decoder")
            say(
                f"decoder: in this epoch it was no better than the mean image (squared error {error:.4f}; mean image "
                f"{constant:.4f}), so the synthesized pairs carry no image content. If its warm-up ended above the "
                "mean image too, warm it up for longer: a new run with --reconstruct.epochs above "
                f"{self.config.reconstruct.epochs}. If not, the features change faster than it can follow: lower "
                "--optim.lr"
            )
        self.selected, self.errors = [], []


def variance(bank: Tensor, stored: Tensor, normalize: str) -> Tensor:
    """(D, n) bank whose first `stored` () rows are filled -> (n,). Variance of each dimension, divided by its mean
    square (`normalize` rms), by its sum of squares (l2), or by one (none).

    With rms the result is 1 - mean^2 / mean square. For a dimension that is always zero it is 0.
    """
    count = stored.clamp(1, len(bank))
    filled = torch.arange(len(bank), device=bank.device)[:, None] < count
    mean = bank.sum(0) / count  # unfilled rows are zero
    s = ((bank - mean).square() * filled).sum(0) / count
    if normalize == "none":
        return s
    divisor = bank.square().sum(0) / (count if normalize == "rms" else 1)
    return s / divisor.where(divisor > 0, 1)


def min_max(x: Tensor) -> Tensor:
    """(..., n) -> (..., n) in [0, 1]: Eq. 4, over the last axis; 0 where all values are equal."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / (high - low).where(high > low, 1)


def concatenate_ranks(z: Tensor) -> Tensor:
    """(b, d) -> (world * b, d), ordered by rank. Gradients reach only this process's rows, without communication."""
    start, rows = parallel.rank() * len(z), parallel.gather(z.detach())
    return torch.cat([rows[:start], z, rows[start + len(z) :]])
