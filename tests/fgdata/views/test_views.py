"""Views: draws, geometry, and each backend's operations compared with the NumPy reference."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from fgdata.errors import InputError
from fgdata.views import ViewSpec, crops, draws, geometry, reference, threads
from fgdata.views.finish import finish

RNG = np.random.default_rng(0)
SPEC = ViewSpec(size=64, masks=True)
SWAP = ViewSpec(size=64, crop="saliency-swap", masks=True)


def noise(height: int, width: int) -> np.ndarray:
    """The hardest image for a resampler: nothing averages out."""
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_boxes(n: int) -> np.ndarray:
    corners = np.sort(RNG.uniform(0, 1, (n, 2, 2)), 1)
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1).astype(np.float32)


def plan(spec: ViewSpec, sizes: np.ndarray, boxes: np.ndarray, **keys: int) -> geometry.Geometry:
    return geometry.compute(
        spec, sizes, boxes, np.arange(len(sizes)), **{"seed": 1, "epoch": 0, "batch": 0, "view": 0} | keys
    )


# Draws


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers of Random123 1.09, kat_vectors, philox4x32 10
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_known_answers(counter: str, key: str, words: str):
    low, high = (int(word, 16) for word in key.split())
    got = draws.philox(np.array([int(word, 16) for word in counter.split()]), high << 32 | low)
    assert " ".join(f"{word:08x}" for word in got) == words


def test_a_samples_draws_depend_on_seed_epoch_view_and_itself_alone():
    whole = draws.uniforms(7, 3, np.arange(50), 1, 38)
    assert np.array_equal(draws.uniforms(7, 3, np.array([42, 5]), 1, 38), whole[[42, 5]])
    assert np.array_equal(draws.uniforms(7, 3, np.arange(50), 1, 40)[:, :38], whole)
    others = [
        draws.uniforms(*keys, 38)
        for keys in ((8, 3, np.arange(50), 1), (7, 4, np.arange(50), 1), (7, 3, np.arange(50), 0))
    ]
    assert all(np.mean(other == whole) < 0.001 for other in others)
    assert stats.kstest(whole.ravel(), "uniform").pvalue > 0.001


@pytest.mark.parametrize("n", [2, 3, 64])
def test_partners_are_a_permutation_without_fixed_points(n: int):
    seen = np.stack([draws.partners(0, 0, batch, 1, n) for batch in range(200)])
    assert (np.sort(seen, 1) == np.arange(n)).all()
    assert (seen != np.arange(n)).all()
    if n > 2:  # every other sample is as likely: 200 n draws over n - 1 offsets
        offsets = np.bincount(((seen - np.arange(n)) % n).ravel(), minlength=n)[1:]
        assert stats.chisquare(offsets).pvalue > 0.001


# Geometry


def test_random_resized_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(3, 300, 500)
    theirs = np.array(
        [torchvision.transforms.RandomResizedCrop.get_params(image, [0.2, 1], [3 / 4, 4 / 3]) for _ in range(3000)]
    )[:, [1, 0, 3, 2]]  # top, left, height, width -> x, y, w, h
    sizes = np.tile([500, 300], (3000, 1))
    ours = plan(ViewSpec(), sizes, random_boxes(3000)).source
    for values in (lambda r: r[:, 0], lambda r: r[:, 1], lambda r: r[:, 2] * r[:, 3], lambda r: r[:, 2] / r[:, 3]):
        assert stats.ks_2samp(values(ours), values(theirs)).pvalue > 0.001


def test_crops_of_extreme_images_stay_inside():
    sizes = np.array([[1, 1], [1000, 3], [3, 1000], [7, 8], [640, 90]] * 200)
    x, y, w, h = plan(ViewSpec(), sizes, random_boxes(1000)).source.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (w >= 1).all()
    assert (h >= 1).all()
    assert (x + w <= sizes[:, 0]).all()
    assert (y + h <= sizes[:, 1]).all()
    assert np.array_equal(np.stack([w, h], 1)[1], [4, 3])  # no attempt fits: the centre, at the widest allowed aspect


def test_patches_lie_in_their_box_with_the_specified_area():
    sizes, boxes = np.tile([1000, 800], (4000, 1)), random_boxes(4000)
    big = boxes[:, 2:].min(1) > 0.2  # where rounding to pixels is negligible
    box = crops.pixels(boxes, sizes)
    patch = plan(SWAP, sizes, boxes).source
    assert (patch[:, :2] >= box[:, :2]).all()
    assert (patch[:, :2] + patch[:, 2:] <= box[:, :2] + box[:, 2:]).all()
    share = (patch[big, 2:] / box[big, 2:]).prod(1)
    assert stats.kstest(share, "uniform", (0.5, 0.5)).statistic < 0.05  # uniform in [lambda, 1]
    aspect = (patch[big, 2] / box[big, 2]) / (patch[big, 3] / box[big, 3])
    assert 3 / 4 - 0.01 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 4 / 3 + 0.01


def test_a_patch_is_placed_over_its_partners_box():
    sizes, boxes = RNG.integers(50, 500, (64, 2)), random_boxes(64)
    boxes[0] = [0.5, 0.5, 1e-4, 1e-4]  # less than a pixel
    p = plan(SWAP, sizes, boxes)
    for place, mask, flip, (left, top, width, height) in zip(
        p.place, p.mask, p.flip, boxes[p.partner].astype(float) * 64
    ):
        x, y = int(left + 0.5), int(top + 0.5)
        w, h = max(1, int(left + width + 0.5) - x), max(1, int(top + height + 0.5) - y)
        assert list(place) == [x, y, w, h]
        assert list(mask) == [64 - x - w if flip else x, y, w, h]
    assert 10 < p.flip.sum() < 54


def test_the_mask_of_rrc_is_the_box_transformed_by_the_crop():
    sizes, boxes = RNG.integers(50, 500, (64, 2)), random_boxes(64)
    p = plan(SPEC, sizes, boxes)
    for i in range(64):
        left, top, w, h = boxes[i].astype(float) * np.tile(sizes[i], 2)
        x, y, cw, ch = p.source[i]
        centres = np.arange(64) + 0.5  # of the view's pixels; a pixel is inside if its centre is
        columns, rows = x + centres * cw / 64, y + centres * ch / 64
        painted = ((rows >= top) & (rows < top + h))[:, None] & ((columns >= left) & (columns < left + w))
        painted = painted[:, ::-1] if p.flip[i] else painted
        assert np.array_equal(reference.mask(p, i, 64)[0], painted)


def test_the_test_time_view_is_torchvisions_resize_and_centre_crop():
    spec = ViewSpec.evaluation(64)
    for height, width in ((90, 131), (200, 77), (64, 64), (333, 500)):
        image = noise(height, width)
        p = plan(spec, np.array([[width, height]]), random_boxes(1))
        ours = reference.view(image, p, 0, spec)
        theirs = tv.center_crop(
            tv.resize(torch.from_numpy(image).permute(2, 0, 1).double(), 73, antialias=True), [64, 64]
        )
        assert np.abs(ours - reference.normalise(theirs.permute(1, 2, 0).numpy(), spec)).max() < 1e-5


def test_only_the_middle_of_a_very_long_image_is_resized(monkeypatch):
    """Compared with the whole strip, on noise: the same view to 1/16 pixel; the same geometry if nothing is cut."""
    spec = ViewSpec.evaluation(64)
    sizes = np.array([[20, 1003], [401, 16], [333, 40], [300, 3600], [9, 160], [90, 131]])
    cut, boxes = plan(spec, sizes, random_boxes(6)), np.tile(np.float32([0.3, 0.48, 0.4, 0.03]), (6, 1))
    masks = plan(spec, sizes, boxes).mask
    assert cut.place[:, 2:].max() <= crops.LONGEST * 73 + 73 / 9
    monkeypatch.setattr(crops, "LONGEST", 10_000)
    whole = plan(spec, sizes, random_boxes(6))
    assert np.abs(plan(spec, sizes, boxes).mask - masks).max() <= 1
    for i, (width, height) in enumerate(sizes):
        image = noise(height, width)
        difference = np.abs(reference.view(image, cut, i, spec) - reference.view(image, whole, i, spec)) * 58
        assert difference.max() < 3  # levels
        if not cut.source[i, :2].any():
            assert np.array_equal(cut.place[i], whole.place[i])
            assert not difference.any()
    assert (cut.source[:, :2].any(1) == [True, True, True, True, True, False]).all()


# Colour


def factors(**chosen: float) -> np.ndarray:
    """Draws that give these jitter factors (hue in turns) at the default strengths, in the given order."""
    names = ["brightness", "contrast", "saturation", "hue"]
    u = np.full((1, draws.COUNT), 0.5)
    u[:, [draws.JITTER, draws.GRAY]] = 0, 1
    for rank, (name, value) in enumerate(chosen.items()):
        column = names.index(name)
        u[:, draws.FACTORS.start + column] = 0.5 + (value / 0.1 if name == "hue" else (value - 1) / 0.4) / 2
        u[:, draws.ORDER.start + column] = rank / 10
    return u


@pytest.mark.parametrize("order", [("brightness", "contrast", "saturation"), ("saturation", "contrast", "brightness")])
def test_jitter_in_any_order_is_torchvisions_without_clipping(order: tuple[str, ...]):
    image = RNG.uniform(0.3, 0.6, (20, 30, 3))
    chosen = dict(zip(order, (1.15, 0.8, 1.3)))
    a, c = geometry.colour_map(factors(**chosen), ViewSpec())
    theirs = torch.from_numpy(image).permute(2, 0, 1)
    for name, factor in chosen.items():
        theirs = getattr(tv, f"adjust_{name}")(theirs, factor)
    # torchvision rounds the third luma weight: .2989 .587 .114 add to .9999
    assert (
        np.abs(reference.recolour(image, a[0], c[0], image.mean((0, 1))) - theirs.permute(1, 2, 0).numpy()).max() < 2e-4
    )


def test_hue_preserves_luma_and_grey_and_is_invertible():
    a, _ = geometry.colour_map(factors(hue=0.1), ViewSpec())
    b, _ = geometry.colour_map(factors(hue=-0.1), ViewSpec())
    assert np.abs(geometry.LUMA @ a[0] - geometry.LUMA).max() < 1e-9
    assert np.abs(a[0] @ np.ones(3) - 1).max() < 0.003  # the published YIQ rows do not sum to exactly 0
    assert np.abs(a[0] @ b[0] - np.eye(3)).max() < 1e-9


def test_colour_operations_have_the_specified_probabilities():
    n = 4000
    u = draws.uniforms(3, 0, np.arange(n), 0, draws.COUNT)
    a, _ = geometry.colour_map(u, ViewSpec())
    assert abs(np.mean([np.allclose(m, np.eye(3)) for m in a]) - 0.2 * 0.8) < 0.02
    assert abs(np.mean(np.ptp(a, axis=1).max(1) < 1e-9) - 0.2) < 0.02  # three equal rows: grey
    p = plan(ViewSpec(size=112), np.full((n, 2), 100), random_boxes(n))
    assert abs(np.mean(p.sigma > 0) - 0.5) < 0.03
    assert stats.kstest(p.sigma[p.sigma > 0], "uniform", (0.05, 0.95)).pvalue > 0.001  # (0.1, 2.0) at half of 224


# The reference against other programs


def test_reference_resize_is_torchs_antialiased_bilinear():
    for (height, width), (h, w) in (((90, 131), (64, 64)), ((30, 40), (64, 77)), ((300, 64), (64, 64))):
        image = torch.from_numpy(noise(height, width)).permute(2, 0, 1)[None].double()
        theirs = torch.nn.functional.interpolate(image, (h, w), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        assert np.abs(reference.resize(image[0].permute(1, 2, 0).numpy(), w, h) - theirs.numpy()).max() < 1e-9


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_reference_blur_is_torchvisions(sigma: float):
    image = torch.from_numpy(noise(40, 50)).permute(2, 0, 1).double()
    theirs = tv.gaussian_blur(image, [2 * int(np.ceil(3 * sigma)) + 1] * 2, [sigma, sigma]).permute(1, 2, 0)
    assert np.abs(reference.blur(image.permute(1, 2, 0).numpy(), sigma) - theirs.numpy()).max() < 1e-6


# Threads, operation by operation. A level is 1/255 of the range.

SHAPES = [((375, 500), (64, 64)), ((90, 131), (64, 64)), ((30, 40), (64, 77)), ((300, 64), (64, 64)), ((1, 1), (5, 7))]


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_threads_resize(source: tuple[int, int], target: tuple[int, int]):
    image = noise(source[0] + 2, source[1] + 2)[1:-1, 1:-1]  # not contiguous, like a crop
    error = np.abs(threads.resize(image, target[1], target[0]) - reference.resize(image, target[1], target[0]))
    assert error.max() < 1.6  # rounded to 8 bits after each of the two passes, with 16-bit weights
    assert error.mean() < 0.4


@pytest.mark.parametrize("place", [(3, 50, 20, 14), (0, 0, 64, 64), (-10, -7, 90, 80)])
def test_threads_paste_is_exact_and_does_not_change_the_background(place: tuple[int, int, int, int]):
    patch, background = noise(place[3], place[2]), noise(64, 64)
    before = background.copy()
    view = threads.paste(patch, np.array(place), background, 64)
    assert np.array_equal(view, reference.paste(patch, place[0], place[1], background, 64))
    assert np.array_equal(background, before)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.7, 2.0])
def test_threads_blur(sigma: float):
    image = noise(64, 64)
    error = np.abs(threads.blur(image, sigma) - reference.blur(image, sigma))
    assert error.max() < 0.6  # one rounding


@pytest.mark.parametrize("flip", [False, True])
def test_threads_finish(flip: bool):
    view = noise(64, 64)
    colour, centre = (
        m[0].astype(np.float32) for m in geometry.colour_map(factors(hue=0.07, contrast=1.4, saturation=0.6), SPEC)
    )
    mean = view.mean((0, 1))
    exact = reference.normalise(np.clip(reference.recolour(view, colour, centre, mean), 0, 255), SPEC)
    out = np.full((3, 64, 64), np.nan, np.float32)
    finish(view, colour, centre @ mean, flip, SPEC, out)
    assert np.abs(out - (exact[:, :, ::-1] if flip else exact)).max() < 1e-5


# DALI on the CPU, operation by operation


@pytest.fixture(scope="module")
def dali():
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    from fgdata.views import dali_graph

    return dali_graph


def run(dali, body, *batches) -> list[np.ndarray]:
    """Runs `body` of the batches' DALI nodes on the CPU -> one array per sample."""

    @dali.pipeline_def(batch_size=len(batches[0]), num_threads=1, device_id=None)
    def graph():
        layouts = ["HWC" if np.ndim(batch[0]) == 3 else None for batch in batches]
        nodes = [dali.fn.external_source(source=itertools.repeat(b), layout=kind) for b, kind in zip(batches, layouts)]
        return body(*nodes)

    (output,) = graph().run()
    return [np.array(output.at(i)) for i in range(len(batches[0]))]


def test_dali_resize(dali):
    images = [noise(*source) for source, _ in SHAPES]
    sizes = [np.array(target, np.float32) for _, target in SHAPES]
    for image, size, got in zip(images, sizes, run(dali, dali.resize, images, sizes)):
        error = np.abs(got - reference.resize(image, int(size[1]), int(size[0])))
        assert error[1:-1, 1:-1].max() < 0.6  # one rounding
        # At the edge DALI repeats the last pixel and the others truncate the triangle: one ring of pixels, on noise.
        assert error.max() < 40


def test_dali_cut_and_paste_are_exact(dali):
    images, behind = [noise(90, 131), noise(70, 60)], [noise(64, 64), noise(64, 64)]
    start, shape = [np.array([7, 30], np.int32), np.array([0, 0], np.int32)], [np.array([20, 14], np.int32)] * 2
    anchors = [np.array([[0, 0], [50, 3]], np.int32), np.array([[0, 0], [0, 44]], np.int32)]
    patches = run(dali, dali.cut, images, start, shape)
    assert np.array_equal(patches[0], images[0][30:44, 7:27])
    views = run(dali, lambda p, a, b: dali.paste(p, a, b, 64), patches, anchors, behind)
    for view, patch, anchor, background in zip(views, patches, anchors, behind):
        assert np.array_equal(view, reference.paste(patch, anchor[1, 1], anchor[1, 0], background, 64))


def test_dali_blur(dali):
    sigmas = [np.float32(s) for s in (0.03, 0.1, 0.7, 2.0)]
    images = [noise(64, 64) for _ in sigmas]
    for image, sigma, got in zip(images, sigmas, run(dali, dali.blur, images, sigmas)):
        assert np.abs(got - reference.blur(image, float(sigma))).max() < 0.6  # one rounding


def test_dali_recolour_and_normalise(dali):
    view = noise(64, 64)
    colour, centre = (
        m[0].astype(np.float32) for m in geometry.colour_map(factors(hue=0.07, contrast=1.4, saturation=0.6), SPEC)
    )
    mean = view.mean((0, 1)).astype(np.float32)
    (got,) = run(dali, dali.recolour, [view], [colour], [centre], [mean])
    assert np.abs(got - np.clip(reference.recolour(view, colour, centre, mean), 0, 255)).max() < 1e-3
    (got,) = run(dali, lambda v, f: dali.normalise(v, SPEC, f), [view], [np.int32(1)])
    assert np.abs(got - reference.normalise(view[:, ::-1], SPEC)).max() < 1e-5


# The spec


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 7), ("views", 0), ("crop", "center"), ("area", (0.5, 0.2)), ("aspect", (0, 1)), ("patch_area", 0),
     ("flip", 1.5), ("hue", 0.6), ("contrast", -1), ("sigma", (0, 1)), ("std", (0, 1, 1)),
     ("std", (-1, 1, 1)), ("std", (1, 1)), ("std", (1, 1, np.nan)), ("std", (1e-30, 1, 1)), ("std", (np.inf, 1, 1)),
     ("mean", (0, np.nan, 0)), ("mean", (1e30, 0, 0)), ("mean", (0, -11, 0)), ("aspect", (1e-30, 1)),
     ("aspect", (1, np.inf)), ("aspect", (np.nan, 1)), ("sigma", (1e-30, 1)), ("sigma", (1, np.nan)),
     ("patch_area", 1e-300), ("paste_area", 1e-300), ("area", (np.nan, 1))],
)  # fmt: skip
def test_a_spec_refuses_values_out_of_range(field: str, value: object):
    with pytest.raises(InputError, match=f"views.{field} is .*allowed"):
        ViewSpec(**{field: value})


LIMITS = [
    *({"aspect": (a, b)} for a, b in ((0.01, 0.01), (100, 100), (0.01, 100))),
    *({"sigma": (a, b), "blur": 1} for a, b in ((0.01, 0.01), (50, 50))),
    *({"mean": (m, m, m), "std": (s, s, s)} for m in (-10, 10) for s in (0.001, 1000)),
    {"patch_area": 0.001, "paste_area": 0.001},
    {"area": (1e-9, 1e-9)},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("crop", ["rrc", "saliency-swap"])
def test_every_view_is_whole_at_the_limits_of_a_spec(limits: dict, crop: str):
    """Of images down to one pixel, and with values that half precision can hold."""
    spec = ViewSpec(size=16, crop=crop, **limits)  # pyright: ignore
    sizes = np.array([[1, 1], [3, 40], [40, 3], [200, 150]])
    boxes = np.array([[0, 0, 1, 1], [0.2, 0.5, 0.1, 0.01], [0, 0, 0.4, 0.9], [0.5, 0.5, 0.2, 0.2]], np.float32)
    for keys in ({"seed": 1}, {"seed": 2, "lenders": 5}):
        g = plan(spec, sizes, boxes, **keys)
        assert (g.source[:, :2] >= 0).all()
        assert (g.source[:, 2:] >= 1).all()
        assert (g.source[:, :2] + g.source[:, 2:] <= sizes).all()
        assert (g.place[:, 2:] >= 1).all()
    for i in range(4):
        view = noise(16, 16)
        if g.sigma[i] > 0:
            view = threads.blur(view, g.sigma[i])
            assert view.std() > 0
        out = np.empty((3, 16, 16), np.float32)
        finish(view, g.colour[i], np.zeros(3, np.float32), bool(g.flip[i]), spec, out)
        assert np.isfinite(out.astype(np.float16)).all()
