"""Losses as pure functions of tensors. All arithmetic is float32 or wider, also under autocast."""

import torch
import torch.nn.functional as F
from torch import Tensor


def negative_cosine(p: Tensor, h: Tensor) -> Tensor:
    """(B, d), (B, d) -> (). D(p, h) = -cos(p, h), mean over the batch (CVSA Eq. 6; BYOL Eq. 2 up to 2 - 2x)."""
    return -F.cosine_similarity(_wide(p), _wide(h), dim=1).mean()


def info_nce(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """(B, d), (B, d), (K, d) unit rows -> (). MoCo Eq. 1 (He et al. 2020): the key is class 0 of 1 + K."""
    q, k, queue = _wide(q), _wide(k), _wide(queue)
    positive = (q * k).sum(1, keepdim=True)
    with torch.autocast(q.device.type, enabled=False):
        logits = torch.cat([positive, q @ queue.T], 1) / tau  # (B, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def attention(p_q: Tensor, h_k: Tensor, normalize: str, scale: float) -> Tensor:
    """(B, d, H, W), (B, d, H, W) -> (B, HW of q, HW of k). CVSA Eq. 3; `normalize` none | cosine."""
    p, h = _wide(p_q).flatten(2), _wide(h_k).flatten(2)  # (B, d, HW)
    if normalize == "cosine":
        p, h = F.normalize(p, dim=1) * scale, F.normalize(h, dim=1)
    with torch.autocast(p.device.type, enabled=False):
        return p.transpose(1, 2) @ h


def alignment(attention_qk: Tensor, mask_q: Tensor, shape: tuple[int, int], reduction: str) -> Tensor:
    """(B, HW, HW), (B, 1, S, S) in [0, 1] -> (). One half of CVSA Eq. 5: || delta(M_q) - C_qk ||^2.

    C_qk is Eq. 4; the sigmoid is monotone, so it is taken after the maximum. `reduction` over the positions is mean or
    sum; over the batch it is always the mean.
    """
    correspondence = attention_qk.amax(2).sigmoid()  # (B, HW)
    target = F.interpolate(_wide(mask_q), shape, mode="bilinear", antialias=True).flatten(1)
    error = (target - correspondence).square()
    return (error.sum(1) if reduction == "sum" else error.mean(1)).mean()


def feature_std(features: Tensor) -> Tensor:
    """(B, n) -> (). Spread of the unit rows, as a share of what independent directions would have: 1 spread, 0
    collapsed (the measure of SimSiam, Chen & He 2021, section 4.1)."""
    unit = F.normalize(_wide(features.detach()), dim=1)
    return unit.std(0, correction=0).mean() * features.shape[1] ** 0.5


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
