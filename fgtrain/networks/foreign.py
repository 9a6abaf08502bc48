"""The names that other projects give to the weights of a network, changed into timm's or torchvision's.

Every function takes the tensors of one table, by name and without their common prefix, and returns them renamed; the
values change only where the other project stores them differently.
"""

import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
IN_ORDER = "matched by order and shape"
NUMBERED = re.compile(r"(.*?)\d+\.\d+\.conv1\.weight$")
"""The first convolution of a block in nn.Sequential(*resnet.children()), after its prefix."""

VIT = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(model\.|encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(intermediate\.dense|mlp\.up_proj|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.down_proj|mlp\.weights_out)\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
"""transformers' ViT, DINOv2 and DINOv3 -> the names of Meta's own files, which timm reads."""

RESNET = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
)
"""transformers' ResNet -> torchvision's names."""


def renamings(named: Weights, network: nn.Module) -> Iterator[tuple[str, Weights]]:
    """Every way to read a table as the weights of `network` -> how it was read ("" for unchanged), and the result."""
    yield "", named
    if "embeddings.cls_token" in named or any(k.startswith("embeddings.patch_embeddings.") for k in named):
        yield from (("transformers' names", each) for each in _filtered(_from_transformers(named), network))
    elif any(k.startswith("embedder.embedder.") for k in named):
        yield "transformers' names", _renamed(named, RESNET)
    else:
        yield from (("names converted by timm", each) for each in _filtered(named, network))
    if numbered := from_sequential(named):
        yield "nn.Sequential", numbered
    if ordered := _in_order(named, network):
        yield IN_ORDER, ordered


def prefixes(names: list[str], ours: list[str], most: int) -> list[str]:
    """Prefixes under which a table may hold the network, the likeliest first: those that leave the most of our names,
    then those that many of its names share."""
    known, depth = set(ours), max(name.count(".") for name in ours) + 1
    counts: Counter[str] = Counter()
    shared: Counter[str] = Counter({"": len(names)})
    for name in names:
        parts = name.split(".")
        for i in range(max(0, len(parts) - depth), len(parts)):
            if ".".join(parts[i:]) in known:
                counts["".join(f"{part}." for part in parts[:i])] += 1
        for i in range(1, min(4, len(parts))):
            shared["".join(f"{part}." for part in parts[:i])] += 1
    often = [prefix for prefix, count in shared.most_common(most) if count >= 8]
    numbered = [m[1] for name in names if (m := NUMBERED.match(name))]
    return list(dict.fromkeys([*(p for p, _ in counts.most_common(most)), *numbered, *often, ""]))[: 2 * most]


def under(prefix: str, table: Weights) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}


def _renamed(named: Weights, rules: Any) -> dict[str, Tensor]:
    out = {}
    for name, value in named.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def _from_transformers(named: Weights) -> dict[str, Tensor]:
    """Queries, keys and values become one tensor; a projection without a bias has a bias of zero (DINOv3's keys)."""
    out = _renamed(named, VIT)
    if registers := [k for k in out if k.endswith("register_tokens")]:
        three = not any(k.startswith("pos_embed") for k in out)
        out["storage_tokens" if three else "register_tokens"] = out.pop(registers[0])
    for block in {m[1] for k in out if (m := re.match(r"(blocks\.\d+\.attn\.)q\.weight$", k))}:
        for kind in ("weight", "bias"):
            parts = [out.pop(f"{block}{letter}.{kind}", None) for letter in "qkv"]
            if first := [part for part in parts if part is not None]:
                out[f"{block}qkv.{kind}"] = torch.cat([torch.zeros_like(first[0]) if p is None else p for p in parts])
    return out


def _filtered(named: Weights, network: nn.Module) -> Iterator[Weights]:
    """What timm's own conversion for this family makes of a table: names of the original projects, position embeddings
    of another grid, patches of another size. Nothing when there is none, or it cannot read the table."""
    convert = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # it raises errors of many types
        converted = dict(convert(dict(named), network))
        # timm drops the biases of DINOv3 for a network without them, which is right only if they are zero.
        lost = [k for k, v in named.items() if k.endswith("attn.qkv.bias") and k not in converted and bool(v.any())]
        if not any(k.endswith("attn.q_bias") for k in converted):
            converted |= {k: named[k] for k in lost}
        yield converted


def from_sequential(named: Weights) -> dict[str, Tensor]:
    """nn.Sequential(*resnet.children()), as in lightly's examples: the children with weights are, in order, conv1, bn1
    and layer1 to layer4."""
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    if not any(re.match(r"\d+\.\d+\.conv1\.weight$", name) for name in named):
        return {}
    numbers = sorted({int(k.split(".")[0]) for k in named if re.match(r"\d{1,4}\.", k)})
    rename = dict(zip(map(str, numbers), names))
    parts = {k: k.partition(".") for k in named}
    return {f"{rename.get(a, a)}{dot}{b}": named[k] for k, (a, dot, b) in parts.items()}


def _in_order(named: Weights, network: nn.Module) -> dict[str, Tensor]:
    """A table whose tensors have, in their order, exactly the shapes of the network's: its names then do not
    matter. Tensors after those, such as a classifier, keep their names."""
    ours = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = {k: v for k, v in named.items() if not k.endswith("num_batches_tracked")}
    if len(theirs) < len(ours) or any(a.shape != b.shape for a, b in zip(ours.values(), theirs.values())):
        return {}
    return dict(zip([*ours, *list(theirs)[len(ours) :]], theirs.values()))
