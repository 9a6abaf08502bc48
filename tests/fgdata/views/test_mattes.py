"""Mattes from saliency maps: their alpha, how they follow the crops, and DiLo's pastes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_set import MemorySet
from scipy import stats
from skimage.filters import threshold_otsu

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.shards.maps import MapFile
from fgdata.shards.reader import ShardSet, box
from fgdata.views import ViewSpec, geometry, load, reference
from fgdata.views.backgrounds import open_backgrounds
from fgdata.views.batch import gather
from fgdata.views.mattes import Matte, Mattes, matte

DETECTOR = "spectral-residual"
KEYS = {"seed": 3, "epoch": 0, "batch": 0}
PASTE = ViewSpec(size=48, crop="matte-paste", mattes=True, masks=True, matte=0.6)


@pytest.fixture(params=["threads", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    return request.param


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 birds with maps, in two splits."""
    out = tmp_path_factory.mktemp("shards") / "mapped"
    birds = read("drawn", classes=2, images_per_class=6, size=64)
    build(birds, out, saliency=(DETECTOR, "gt"), workers=1, keep_maps=True)
    return out


# The matte of a map


def bump() -> np.ndarray:
    y, x = np.mgrid[:128, :128] / 128
    return 3 + 2 * np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.02)


def test_alpha_is_a_soft_threshold_at_otsus():
    saliency = bump()
    alpha, box = matte(saliency)
    levels = np.rint(255 * (saliency - saliency.min()) / np.ptp(saliency)).astype(np.uint8)
    theta = threshold_otsu(levels)
    expected = np.clip(0.5 + (levels.astype(float) - theta) / (0.2 * 255), 0, 1)
    assert np.abs(alpha / 255 - expected).max() <= 0.5 / 255 + 1e-9
    rows, columns = np.nonzero(levels > theta)
    edges = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert np.array_equal(box, np.float32(edges) / 128)


@pytest.mark.parametrize("value", [0.0, 0.7, np.nan])
def test_a_constant_map_is_all_object_without_a_box(value: float):
    alpha, box = matte(np.full((128, 128), value))
    assert (alpha == 255).all()
    assert not box.any()


def test_rows_of_the_map_file_are_those_of_the_split(mapped: Path):
    shards, file = ShardSet.open(mapped), MapFile(mapped / "maps.h5")
    first = 0
    for split, count in shards.splits.items():
        mattes = Mattes(shards, split, DETECTOR)
        for i in (0, count - 1):
            assert np.array_equal(mattes.read(i).alpha, matte(file.read(DETECTOR, first + i)).alpha)
        first += count
    file.close()


# Geometry


def plan(spec: ViewSpec, n: int, cut: tuple[float, ...], lenders: int = 0, **fields: Any) -> geometry.Geometry:
    box = np.tile(np.float32(cut), (n, 1))
    return geometry.compute(
        spec, np.full((n, 2), 400), box, np.arange(n), view=0, lenders=lenders, **KEYS, cuts=box, **fields
    )


def test_the_share_of_pasted_views_and_the_others_are_random_resized_crops():
    n = 10_000
    p, rrc = plan(PASTE, n, (0.2, 0.3, 0.4, 0.5)), plan(ViewSpec(size=48), n, (0.2, 0.3, 0.4, 0.5))
    assert abs(p.blend.mean() - 0.6) < 4 * np.sqrt(0.6 * 0.4 / n)
    for name in ("source", "place", "mask"):
        assert np.array_equal(getattr(p, name)[~p.blend], getattr(rrc, name)[~p.blend])
    assert (p.partner[p.blend] != np.arange(n)[p.blend]).all()
    for name in ("flip", "colour", "sigma"):
        assert np.array_equal(getattr(p, name), getattr(rrc, name))


def test_the_pasted_rectangle_is_that_of_saliency_swap_at_the_same_draws():
    """With the whole box as the patch, both place it by the same function."""
    cut, fields = (0.2, 0.3, 0.4, 0.5), {"size": 48, "patch_area": 1.0, "aspect": (1.0, 1.0)}
    p = plan(ViewSpec(crop="matte-paste", matte=1, **fields), 500, cut, lenders=7)
    swap = plan(ViewSpec(crop="saliency-swap", **fields), 500, cut, lenders=7)
    for name in ("source", "place", "mask", "partner"):
        assert np.array_equal(getattr(p, name), getattr(swap, name))


def test_a_grey_background_is_uniform_over_the_levels():
    level = plan(ViewSpec(crop="matte-paste", matte_grey=True), 4096, (0.2, 0.3, 0.4, 0.5)).grey
    assert stats.chisquare(np.bincount(level // 16, minlength=16)).pvalue > 0.001
    assert not ViewSpec(crop="matte-paste", matte_grey=True).pastes  # so a single image is enough


def test_a_constant_map_gives_a_random_resized_crop():
    p = plan(ViewSpec(size=48, crop="matte-paste", matte=1), 50, (0, 0, 0, 0))
    assert not p.blend.any()
    assert np.array_equal(p.source, plan(ViewSpec(size=48), 50, (0, 0, 1, 1)).source)


# Pixels


@pytest.mark.parametrize(
    ("crop", "behind"),
    [
        ("rrc", ""),
        ("saliency-swap", ""),
        ("matte-paste", ""),
        ("matte-paste", "lenders"),
        ("matte-paste", "grey"),
        ("centre", ""),
    ],
)
def test_views_and_mattes_against_the_reference(mapped: Path, backend: str, crop: Any, behind: str):
    spec, shards, lenders = (
        ViewSpec(size=48, crop=crop, mattes=True, matte=0.6, matte_grey=behind == "grey"),
        ShardSet.open(mapped),
        MemorySet(5),
    )
    options = {"backend": backend, "seed": 3, "threads": 2} | (
        {"backgrounds": [lenders]} if behind == "lenders" else {}
    )
    with load(shards, views=spec, batch_size=8, detector=DETECTOR, **options) as loader:
        batch = next(iter(loader))
    index, mattes = batch["index"].numpy(), Mattes(shards, "train", DETECTOR)
    others = open_backgrounds(options.get("backgrounds", ()), shards, "train", spec)
    work = gather(shards.split("train"), spec, DETECTOR, index, 8, backgrounds=others, mattes=mattes, **KEYS)
    images = [decode(jpeg, "") for jpeg in work.jpegs]
    levels = np.array(spec.std)[:, None, None] * 255
    assert work.geometries[0].blend.any() == (crop == "matte-paste")
    for v, shot in enumerate(work.geometries):
        for i in range(8):
            under = None
            if spec.pastes:
                under = decode(work.backgrounds[v][i].jpeg, "") if others else images[shot.partner[i]]
            if spec.grey:
                under = np.full((9, 9, 3), shot.grey[i])
            alpha = work.mattes[i] / 255
            exact = reference.view(images[i], shot, i, spec, under, alpha)
            error = levels * np.abs(batch["views"][v, i].numpy() - exact)
            assert error.mean() < 0.8  # as in test_loader.test_whole_views_against_the_reference
            assert np.quantile(error, 0.98) < 3
            wrong = 255 * np.abs(batch["mattes"][v, i].numpy() - reference.matte(alpha, images[i].shape, shot, i, spec))
            assert wrong.mean() < 1.2  # rounded to 8 bits after each of two resizes
            assert np.quantile(wrong, 0.98) < 6  # DALI's edges


def weighed(alpha: np.ndarray, blended: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pasted view, its background and its own patch at an alpha, in levels, in the reference's arithmetic."""
    spec = ViewSpec(
        size=32, crop="matte-paste", matte=1, jitter=0, grayscale=0, blur=0, flip=0, mean=(0,) * 3, std=(1,) * 3
    )
    p = plan(spec, 1, (0.25, 0.25, 0.5, 0.5), lenders=2)
    rng = np.random.default_rng(0)
    image, background = rng.uniform(0, 255, (400, 400, 3)), rng.uniform(0, 255, (60, 40, 3))
    return reference.view(image, p, 0, spec, background, alpha), reference.plain(background, spec), p.place[0]


def test_a_blend_is_linear_in_alpha():
    one, none = np.ones((128, 128)), np.zeros((128, 128))
    full, behind, (x, y, w, h) = weighed(one)
    assert np.abs(weighed(none)[0] - behind).max() < 1e-9  # alpha 0: the background alone
    inside = np.zeros((32, 32), bool)
    inside[y : y + h, x : x + w] = True
    assert np.abs(full - behind)[:, ~inside].max() < 1e-9
    assert np.abs(full - behind)[:, inside].mean() > 0.1
    a, b = np.random.default_rng(1).uniform(0, 1, (2, 128, 128))
    middle = weighed((a + b) / 2)[0]
    assert np.abs(weighed(a)[0] + weighed(b)[0] - 2 * middle).max() < 1e-9


def test_an_opaque_matte_has_the_pixels_of_saliency_swap(mapped: Path, backend: str, monkeypatch: pytest.MonkeyPatch):
    """With the detector's box as the matte's, alpha 1, lenders, and the whole box as the patch: at the same draws."""
    shards = ShardSet.open(mapped)
    reader, opaque = shards.split("train"), np.full((128, 128), 255, np.uint8)
    monkeypatch.setattr(Mattes, "read", lambda _, i: Matte(opaque, box(reader.read(i), DETECTOR)))
    fields: dict[str, Any] = {"size": 48, "patch_area": 1.0, "aspect": (1.0, 1.0)}
    options: dict[str, Any] = {"batch_size": 8, "detector": DETECTOR, "backend": backend, "seed": 3}
    views = []
    for crop in ("matte-paste", "saliency-swap"):
        spec = ViewSpec(crop=crop, matte=1.0, masks=True, **fields)
        with load(shards, views=spec, backgrounds=[MemorySet(5)], **options) as loader:
            views.append(next(iter(loader)))
    ours, theirs = views
    assert torch.equal(ours["masks"], theirs["masks"])
    assert torch.equal(ours["views"], theirs["views"])


def test_mattes_do_not_change_the_views(mapped: Path, backend: str):
    options: dict[str, Any] = {"batch_size": 8, "detector": DETECTOR, "backend": backend}
    with (
        load(mapped, views=ViewSpec(size=24), **options) as bare,
        load(mapped, views=ViewSpec(size=24, mattes=True), **options) as matted,
    ):
        assert torch.equal(next(iter(bare))["views"], next(iter(matted))["views"])


# Refusals


def test_sets_without_maps_are_refused(mapped: Path, drawn_set: Path):
    for path, detector in ((mapped, "gt"), (drawn_set, DETECTOR)):
        with pytest.raises(
            InputError,
            match=f"no saliency maps by {detector}.*.*build-shards .*--keep-maps --out .*-maps",
        ):
            load(path, views=PASTE, batch_size=4, detector=detector)


@pytest.mark.parametrize("grey", [False, True])
def test_8_bit_batches_have_the_same_views_and_mattes(mapped: Path, grey: bool):
    spec = ViewSpec(size=24, crop="matte-paste", matte=0.7, matte_grey=grey, mattes=True, masks=True, blur=0)
    options: Any = {"views": spec, "batch_size": 4, "backend": "threads", "threads": 2}
    with load(mapped, **options) as plain, load(mapped, output="uint8", **options) as loader:
        for expected, batch in zip(plain, loader, strict=True):
            for name, tensor in loader.finish(batch).items():
                torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
