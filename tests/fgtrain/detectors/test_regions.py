"""Normalised cut and LOST: keys, graph, eigenvector and region against float64 loops, on ten images."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from timm.models.eva import EvaAttention
from torch import nn

from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images import decode
from fgtrain.detectors import lost, region, tokencut
from fgtrain.detectors.weights import Source
from fgtrain.networks.encoder import Encoder
from fgtrain.networks.keys import last_keys
from fgtrain.settings.common import Model


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    birds = read("drawn", classes=4, images_per_class=3, size=96)
    return [decode(birds.load(record)[0], record.file) for record in birds.records[:10]]


@pytest.fixture(scope="module")
def source(images: list[np.ndarray]) -> Source:
    """A small ViT with random weights. With these alone, all keys have much in common and every edge the same weight;
    so the bias of the keys takes away their mean."""
    torch.manual_seed(0)
    encoder = Encoder(Model("test_vit")).eval()
    source = Source("tokencut:x", encoder, 128, {"backbone": "test_vit"})
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            value.normal_(0, 0.5 if value.ndim > 1 else 0.2).add_(float("norm" in name and "weight" in name))
        mean = np.mean([source.keys(rgb).mean((0, 1)) for rgb in images], axis=0)
        encoder.network.blocks[-1].attn.qkv.bias[len(mean) : 2 * len(mean)] -= torch.from_numpy(mean)
    return source


def naive_keys(encoder: Encoder, x: torch.Tensor) -> np.ndarray:
    """(1, 3, S, S) -> (h, w, C): the keys that the last attention computes, of all heads, in float64."""
    network, inputs = copy.deepcopy(encoder).double().network, []
    with network.blocks[-1].attn.k_norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0])):
        network(x.double())
    patches = inputs[0][0].transpose(0, 1).flatten(1)[network.num_prefix_tokens :]  # of (1, heads, n, C / heads)
    side = round(len(patches) ** 0.5)
    return patches.reshape(side, side, -1).numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / float((a @ a) * (b @ b)) ** 0.5


def component(seed: tuple[int, int], mask: np.ndarray) -> set[tuple[int, int]]:
    """Positions reached from the seed through neighbours above, below, left and right."""
    found, border = {seed}, [seed]
    while border:
        i, j = border.pop()
        for place in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
            if inside and mask[place] and place not in found:
                found.add(place)
                border.append(place)
    return found


def positions(mask: np.ndarray) -> set[tuple[int, int]]:
    return {place for place in product(*map(range, mask.shape)) if mask[place]}


@torch.no_grad()
def test_tokencut_equals_a_dense_oracle_on_ten_images(source: Source, images: list[np.ndarray]):
    """To 1e-5 of the eigenvector's length: float32 rounds the keys, but no edge lies that near to the cut."""
    assert len(images) == 10
    for rgb in images:
        x = source.input(rgb)
        ours = source.keys(rgb)
        keys = naive_keys(source.encoder, x)
        np.testing.assert_allclose(ours, keys, atol=1e-4 * np.abs(keys).max())  # float32, and large weights
        flat = keys.reshape(-1, keys.shape[-1])
        n = len(flat)
        edges = np.array([[1.0 if cosine(a, b) > 0.2 else 1e-5 for b in flat] for a in flat])
        assert 0.02 < (edges == 1).mean() < 0.98, "a graph worth cutting"
        degree = edges.sum(1)
        values, vectors = np.linalg.eigh((np.diag(degree) - edges) / np.sqrt(np.outer(degree, degree)))
        assert values[2] - values[1] > 1e-4, "the eigenvector is unique"
        y = vectors[:, 1] / np.sqrt(degree)
        found = tokencut.cut(tokencut.make_edges(ours.reshape(n, -1)))
        found *= np.sign(found @ y)
        np.testing.assert_allclose(found, y, atol=1e-5 * np.linalg.norm(y))
        y = y.reshape(keys.shape[:2])
        seed = max(product(*map(range, y.shape)), key=lambda place: abs(y[place]))
        side = (y > y.mean()) == (y[seed] > y.mean())
        expected = component(seed, side)
        assert positions(tokencut.find_region(ours)) == expected
        assert 0 < len(expected) < n


@torch.no_grad()
def test_lost_equals_loops_on_ten_images(source: Source, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lost, "EXPAND", 20)
    for rgb in images:
        keys = naive_keys(source.encoder, source.input(rgb))
        flat = keys.reshape(-1, keys.shape[-1])
        products = [[float(a @ b) for b in flat] for a in flat]
        degree = [sum(value > 0 for value in row) for row in products]
        order = sorted(range(len(flat)), key=lambda i: degree[i])
        joined = [i for i in order[:20] if products[order[0]][i] > 0]
        mask = np.array([sum(products[i][j] for i in joined) > 0 for j in range(len(flat))]).reshape(keys.shape[:2])
        expected = component(divmod(order[0], keys.shape[1]), mask)
        assert positions(lost.find_region(keys)) == expected


@pytest.mark.parametrize("module", [tokencut, lost])
def test_an_object_of_one_direction_is_found(module):
    """Keys of two orthogonal kinds: a small block of one, and a ground of the other with noise."""
    rng = np.random.default_rng(0)
    keys = rng.normal(0, 0.05, (12, 12, 8))
    keys[..., 0] += 1
    keys[3:7, 5:9, 0] -= 1.2
    keys[3:7, 5:9, 1] += 1
    found = module.find_region(keys)
    expected = np.zeros((12, 12), bool)
    expected[3:7, 5:9] = True
    np.testing.assert_array_equal(found, expected)


def test_equal_edges_cut_nothing():
    assert not tokencut.find_region(np.ones((4, 4, 3))).any()
    single = tokencut.find_region(np.zeros((1, 1, 3)))
    assert single.shape == (1, 1)
    assert not single.any()


def test_threads_that_share_a_network_each_get_their_own_keys(source: Source, images: list[np.ndarray]):
    expected = [source.keys(rgb) for rgb in images[:2]]
    both = threading.Barrier(2)  # both have hooked the attention before either reaches it
    before = source.encoder.network.blocks[-1].norm1
    with before.register_forward_pre_hook(lambda *_: both.wait(60) < 0 or None), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(source.keys, images[:2]))
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(*expected)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qkv_fused": False}], ids=str)
@torch.no_grad()
def test_keys_of_other_attentions(options: dict):
    """That of EVA and DINOv3: a fused projection whose bias is kept apart, none, or a projection of its own."""
    torch.manual_seed(0)
    encoder = Encoder(Model("test_vit3")).eval()
    last = encoder.network.blocks[-1]
    last.attn = EvaAttention(encoder.dim, 2, norm_layer=nn.LayerNorm, **options).eval()
    for value in last.parameters():
        value.normal_(0, 0.1)
    x = torch.rand(1, 3, 64, 64)
    expected = naive_keys(encoder, x)
    assert expected.shape == (4, 4, encoder.dim)
    np.testing.assert_allclose(last_keys(encoder, x)[0].numpy(), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"]
)
def test_a_network_without_keys_is_refused_by_name(backbone: str):
    encoder = Encoder(Model(backbone))
    with pytest.raises(InputError, match=f"tokencut:w needs the keys.*{backbone} does not have.*vit_small"):
        region.Region(Source("tokencut:w", encoder, 224, {}), {}, tokencut.find_region)
