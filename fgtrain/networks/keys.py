"""The keys of a transformer's last attention, by which patches of one object are recognised."""

from threading import get_ident
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fgdata.errors import InputError

from .encoder import Encoder


def check_has_keys(encoder: Encoder, user: str) -> None:
    """InputError unless the network ends in a block of self-attention over patches. user: who needs them."""
    if not encoder.shape.tokens or not hasattr(_attention(encoder), "qkv"):
        raise InputError(
            f"{user} needs the keys of a ViT's last block, which {encoder.model.backbone} does not have. Allowed: a "
            "plain ViT, such as vit_small_patch16_224, vit_small_patch14_dinov2 or vit_small_patch16_dinov3."
        )


def last_keys(encoder: Encoder, x: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, h, w, C): the keys of all heads, of the last block, one per patch and without the others.

    For a network with rotary positions these are the keys before the rotation.
    """
    attention, inputs, thread = _attention(encoder), [], get_ident()

    def keep(_: Any, values: tuple[Tensor, ...]) -> None:
        if get_ident() == thread:  # the network may run on several threads at once
            inputs.append(values[0])

    with attention.register_forward_pre_hook(keep):
        encoder(x)
    tokens, (h, w) = inputs[0], encoder.shape.grid(encoder.model, x.shape[-1])
    if attention.qkv is None:  # separate projections
        keys = attention.k_proj(tokens)
    else:
        c = len(attention.qkv.weight) // 3  # rows of queries, keys, values
        bias = attention.qkv.bias  # a key without a bias changes no attention, so some networks have none
        keys = F.linear(tokens, attention.qkv.weight[c : 2 * c], None if bias is None else bias[c : 2 * c])
    return keys[:, -h * w :].unflatten(1, (h, w))


def _attention(encoder: Encoder) -> Any:
    return getattr(encoder.network.get_submodule(encoder.shape.last), "attn", None)
