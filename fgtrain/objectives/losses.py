"""Losses as pure functions of tensors. All arithmetic is in float32 or wider, even under autocast."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e9
"""A logit whose share is zero; finite, so that a row without any other logit has no NaN."""


def negative_cosine(p: Tensor, h: Tensor) -> Tensor:
    """(B, d), (B, d) -> (). D(p, h) = -cos(p, h), mean over the batch (CVSA Eq. 6; BYOL Eq. 2 up to 2 - 2x)."""
    return -F.cosine_similarity(wide(p), wide(h), dim=1).mean()


def info_nce(q: Tensor, k: Tensor, queue: Tensor, tau: float, more: Tensor | None = None) -> Tensor:
    """(B, d), (B, d), (K, d) unit rows -> (). MoCo Eq. 1 (He et al. 2020): the key is class 0 of 1 + K.

    `more` (B, M): cosines of each query with negatives of its own; -inf leaves one out.
    """
    q, k, queue = wide(q), wide(k), wide(queue)
    positive = (q * k).sum(1, keepdim=True)
    with torch.autocast(q.device.type, enabled=False):
        columns = [positive, q @ queue.T, *([] if more is None else [more])]
        logits = torch.cat(columns, 1) / tau  # (B, 1 + K + M)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def soft_info_nce(q: Tensor, keys: Tensor, targets: Tensor, queue: Tensor, tau: float) -> Tensor:
    """(B, d), (N, d), (B, N), (K, d) -> (). InfoNCE with soft positives: -sum over j of T_ij log p_ij, mean over the
    queries, where p is the softmax over the N keys of the batch and the K of the queue. Rows of `targets` sum to 1."""
    q, keys, queue = wide(q), wide(keys), wide(queue)
    with torch.autocast(q.device.type, enabled=False):
        logits = q @ torch.cat([keys, queue]).T / tau  # (B, N + K)
    return -(targets * logits.log_softmax(1)[:, : len(keys)]).sum(1).mean()


def relation(s: Tensor, t: Tensor, bank: Tensor, others: Tensor, tau: float) -> Tensor:
    """(B, n), (B, n) unit rows, bank (K, n), others (B, K) bool -> (). KL(softmax(t b / tau) || softmax(s b / tau)),
    mean over the batch, over the rows b of the bank that are `others`; 0 where there are none (SEED, Fang et al. 2021,
    Eq. 5 up to the entropy of the teacher's softmax)."""
    s, t, bank = wide(s), wide(t), wide(bank)
    with torch.autocast(s.device.type, enabled=False):
        p, q = (((x @ bank.T) / tau).masked_fill(~others, NEVER).log_softmax(1) for x in (t, s))
    return (p.exp() * (p - q)).sum(1).mean()


@torch.no_grad()
def sinkhorn(keys: Tensor, eps: float, rounds: int = 3) -> Tensor:
    """(N, d) unit rows -> (N, N), rows that sum to 1: exp(cosine / eps), its columns and rows normalised in turn
    (Cuturi 2013), so that no key attracts many others."""
    keys = wide(keys)
    with torch.autocast(keys.device.type, enabled=False):
        log = keys @ keys.T / eps
    for _ in range(rounds):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()


def nt_xent(
    a: Tensor,
    b: Tensor,
    tau: float,
    rows: slice = slice(None),
    denominator: Literal["nt-xent", "paper"] = "nt-xent",
) -> Tensor:
    """(N, d), (N, d) unit rows -> (). SimCLR Eq. 1 (Chen et al. 2020), mean over both views of the samples in `rows`.

    The denominator of an anchor covers all 2N rows except the anchor; `paper` also excludes the positive, as written in
    Eq. 1 and 7 of Wang et al. 2024.
    """
    both = torch.cat([wide(a), wide(b)])
    first = torch.arange(len(a), device=a.device)[rows]
    own, other = torch.cat([first, first + len(a)]), torch.cat([first + len(a), first])  # (2n,) indices of rows
    with torch.autocast(a.device.type, enabled=False):
        logits = both[own] @ both.T / tau  # (2n, 2N)
    absent = own[:, None] if denominator == "nt-xent" else torch.stack([own, other], 1)
    return (logits.scatter(1, absent, -torch.inf).logsumexp(1) - logits.gather(1, other[:, None])[:, 0]).mean()


def attention(p_q: Tensor, h_k: Tensor, normalize: str, scale: float) -> Tensor:
    """(B, d, H, W), (B, d, H, W) -> (B, HW of q, HW of k). CVSA Eq. 3. `normalize` is none, or cosine times `scale`."""
    p, h = wide(p_q).flatten(2), wide(h_k).flatten(2)  # (B, d, HW)
    if normalize == "cosine":
        p, h = F.normalize(p, dim=1) * scale, F.normalize(h, dim=1)
    with torch.autocast(p.device.type, enabled=False):
        return p.transpose(1, 2) @ h


def alignment(attention_qk: Tensor, mask_q: Tensor, shape: tuple[int, int], reduction: str) -> Tensor:
    """(B, HW, HW), (B, 1, S, S) in [0, 1] -> (). One half of CVSA Eq. 5: || delta(M_q) - C_qk ||^2.

    C_qk is Eq. 4; the sigmoid is monotone, so it is applied after the maximum. `shape` is (H, W) of q. `reduction` over
    positions is mean or sum; the result is the mean over the batch.
    """
    correspondence = attention_qk.amax(2).sigmoid()  # (B, HW)
    target = F.interpolate(wide(mask_q), shape, mode="bilinear", antialias=True).flatten(1)
    error = (target - correspondence).square()
    return (error.sum(1) if reduction == "sum" else error.mean(1)).mean()


def feature_std(features: Tensor) -> Tensor:
    """(B, n) -> (). Standard deviation of the unit rows times sqrt(n): 1 for independent directions, 0 when collapsed
    (Chen & He 2021, section 4.1)."""
    rows = F.normalize(wide(features.detach()), dim=1)
    return rows.std(0, correction=0).mean() * features.shape[1] ** 0.5


def mean_of_finite(steps: list[Tensor], default: list[float]) -> list[float]:
    """Figures (n,) or () of each step -> their means over the steps with finite ones only, as steps with another loss
    are left out; `default` where there is none."""
    rows = torch.stack([figures.reshape(len(default)) for figures in steps]) if steps else torch.empty(0, len(default))
    rows = rows[rows.isfinite().all(1)]
    return rows.mean(0).tolist() if len(rows) else default


def unit(x: Tensor) -> Tensor:
    """(B, d) -> rows of length 1."""
    return F.normalize(wide(x), dim=1)


def wide(x: Tensor) -> Tensor:
    """Converts float16 and bfloat16 to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
