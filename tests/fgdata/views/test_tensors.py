"""What a batch has beside its two views: local views, lent views, boxes; and blur and solarisation per view."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_set import MemorySet, open_loader, same

from fgdata.errors import InputError
from fgdata.images import decode
from fgdata.views import Local, ViewSpec, draws, geometry, reference
from fgdata.views.backgrounds import open_backgrounds
from fgdata.views.batch import gather
from fgdata.views.crops import pixels
from fgdata.views.finish import finish

EVERYTHING = ViewSpec(
    size=48,
    masks=True,
    boxes=True,
    lent=True,
    local=Local(count=2, size=24, inside_box=True),
    object_size=40,
    blur=(1.0, 0.0),
    solarize=(0.0, 1.0),
)
KEYS = {"seed": 3, "epoch": 0, "batch": 0}
WHOLE = np.float32([0, 0, 1, 1])


@pytest.fixture(params=["threads", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    return request.param


def plan(spec: ViewSpec, n: int, view: int = 0, box: np.ndarray = WHOLE) -> geometry.Geometry:
    sizes, boxes = np.tile([300, 200], (n, 1)), np.tile(box, (n, 1))
    return geometry.compute(spec, sizes, boxes, np.arange(n), view=view, **KEYS)


def test_every_tensor_against_the_reference_and_its_declaration(backend: str):
    shards, behind = MemorySet(6, side=(50, 300)), MemorySet(7, side=(40, 200))
    options = {"backend": backend, "detector": "rbd", "backgrounds": [behind], "box": True}
    with open_loader(shards, EVERYTHING, 6, **options) as loader:
        batch = next(iter(loader))
        declared = {name: tuple(6 if n == -1 else n for n in shape) for name, shape in loader.tensors.items()}
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == declared
    index = batch["index"].numpy()
    lenders = open_backgrounds([behind], shards, "train", EVERYTHING)  # type: ignore[arg-type]
    work = gather(shards, EVERYTHING, "rbd", index, 6, backgrounds=lenders, **KEYS)  # type: ignore[arg-type]
    levels = np.array(EVERYTHING.std)[:, None, None] * 255
    assert set(work.shots) == {"views", "local", "lent", "object"}
    for name, shots in work.shots.items():
        views = batch[name] if batch[name].ndim == 5 else batch[name][None]
        for v, shot in enumerate(shots):
            for i in range(6):
                image = decode(work.lent[i].jpeg if name == "lent" else work.jpegs[i], "")
                error = levels * np.abs(views[v, i].numpy() - reference.view(image, shot, i, EVERYTHING.shots[name]))
                # As in test_loader.test_whole_views_against_the_reference; a ring is a larger part of a small view.
                assert error.mean() < (1.2 if name == "local" else 0.8)
                assert np.quantile(error, 0.95 if name == "local" else 0.98) < 3
    for v, shot in enumerate(work.geometries):
        assert torch.equal(batch["boxes"][v], torch.from_numpy(shot.mask).float())
        for (x, y, w, h), mask in zip(batch["boxes"][v].int().tolist(), batch["masks"][v, :, 0]):
            assert mask.sum() == w * h == mask[y : y + h, x : x + w].sum()


def test_no_tensor_changes_the_views():
    shards, behind = MemorySet(8), [MemorySet(7)]
    with (
        open_loader(shards, ViewSpec(size=16)) as bare,
        open_loader(shards, replace(EVERYTHING, size=16, blur=0.5, solarize=0.0), backgrounds=behind) as full,
    ):
        for one, other in zip(bare, full, strict=True):
            assert torch.equal(one["views"], other["views"])


# Blur and solarisation per view


def test_solarisation_inverts_what_is_128_or_more():
    view = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    spec, out = ViewSpec(mean=(0, 0, 0), std=(1, 1, 1)), np.empty((3, 16, 16), np.float32)
    finish(view, np.eye(3, dtype=np.float32), np.zeros(3, np.float32), False, spec, out, True)
    expected = [value if value < 128 else 255 - value for value in range(256)]
    assert np.abs(out[0].ravel() * 255 - expected).max() < 1e-4


def test_probabilities_are_those_of_each_view():
    spec, n = ViewSpec(blur=(1.0, 0.1), solarize=(0.0, 0.2)), 4000
    one, two = plan(spec, n, 0), plan(spec, n, 1)
    assert (one.sigma > 0).all()
    assert not one.solarize.any()
    assert abs(np.mean(two.sigma > 0) - 0.1) < 0.02
    assert abs(np.mean(two.solarize) - 0.2) < 0.025
    both = np.mean((two.sigma > 0) & two.solarize)
    assert abs(both - 0.1 * 0.2) < 0.01  # independent
    other = plan(ViewSpec(), n, 1)
    for name in ("source", "flip", "colour", "centre"):
        assert np.array_equal(getattr(two, name), getattr(other, name))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_another_number_of_views_has_the_settings_of_the_first_ones(count: int):
    area, shares = ((0.2, 0.3), (0.6, 0.9), (0.5, 1.0)), (0.25, 0.5, 1.0)
    spec = ViewSpec(views=3, area=area, blur=shares, solarize=shares[::-1], strength=shares)
    other = spec.with_views(count)
    assert other.views == count
    for view in range(count):
        one, same = other.of(view), spec.of(view % 3)
        assert (one.area, one.sigma, one.jitter) == (same.area, same.sigma, same.jitter)
        assert one.chance("blur", view) == same.chance("blur", view % 3)
        assert one.chance("solarize", view) == same.chance("solarize", view % 3)
    assert ViewSpec(area=(0.1, 0.2)).with_views(count) == ViewSpec(views=count, area=(0.1, 0.2))


def test_area_and_strength_are_those_of_each_view():
    spec, n = ViewSpec(area=((0.2, 0.3), (0.6, 0.9)), strength=(0.5, 1.0)), 4000
    one, two, default = plan(spec, n, 0), plan(spec, n, 1), plan(ViewSpec(area=(0.6, 0.9)), n, 1)
    for field in vars(two):
        assert np.array_equal(getattr(two, field), getattr(default, field))  # strength 1 changes nothing
    share = one.source[:, 2:].prod(1) / (300 * 200)
    assert 0.195 < share.min() < share.max() < 0.305
    scaled = ViewSpec(
        area=(0.2, 0.3), jitter=0.4, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, grayscale=0.1, blur=0.25,
        sigma=(0.05, 1.0),
    )  # fmt: skip
    by_hand = plan(scaled, n, 0)
    for field in vars(one):
        np.testing.assert_allclose(getattr(one, field), getattr(by_hand, field), rtol=1e-6, atol=1e-6)
    assert abs(np.mean(one.sigma > 0) - 0.25) < 0.025
    none = plan(ViewSpec(strength=0.0), n)
    assert not none.sigma.any()
    assert np.array_equal(none.colour, np.tile(np.eye(3, dtype=np.float32), (n, 1, 1)))


def test_per_view_area_and_strength_against_the_reference(backend: str):
    shards, spec = MemorySet(6, side=(50, 300)), ViewSpec(size=48, area=((0.2, 0.3), (0.6, 1.0)), strength=(0.3, 1.0))
    with open_loader(shards, spec, 6, backend=backend) as loader:
        batch = next(iter(loader))
    work = gather(shards, spec, None, batch["index"].numpy(), 6, **KEYS)  # type: ignore[arg-type]
    levels = np.array(spec.std)[:, None, None] * 255
    for v, shot in enumerate(work.geometries):
        for i in range(6):
            expected = reference.view(decode(work.jpegs[i], ""), shot, i, spec)
            error = levels * np.abs(batch["views"][v, i].numpy() - expected)
            assert error.mean() < 0.8  # as above
            assert np.quantile(error, 0.98) < 3


def test_other_shots_have_the_first_view_s_settings():
    spec = ViewSpec(area=((0.2, 0.3), (0.6, 0.9)), strength=(0.5, 1.0), local=Local(count=1), lent=True)
    local, lent = spec.shots["local"], spec.shots["lent"]
    assert (lent.area, lent.jitter, lent.blur) == ((0.2, 0.3), 0.4, 0.25)
    assert (local.area, local.jitter, local.blur) == (Local().area, 0.4, 0.5)
    assert (local.strength, lent.strength) == (1.0, 1.0)


# Local views


def test_local_views_do_not_depend_on_their_number_and_all_differ():
    few, more = (
        gather(MemorySet(6), ViewSpec(local=Local(count=n)), None, np.arange(6), 6, **KEYS)  # type: ignore[arg-type]
        for n in (2, 5)
    )
    for a, b in zip(few.shots["local"], more.shots["local"]):
        assert all(np.array_equal(getattr(a, field), getattr(b, field)) for field in vars(a))
    every = more.shots["views"] + more.shots["local"]
    assert len({shot.colour.tobytes() for shot in every}) == 7


def test_local_views_have_their_own_area_and_the_others_blur_in_pixels():
    spec = ViewSpec(size=224, local=Local(count=2, size=96, blur=1.0)).shots["local"]
    n = 3000
    shot = plan(spec, n, 2)
    share = shot.source[:, 2:].prod(1) / (300 * 200)
    assert 0.045 < share.min() < 0.055
    assert 0.135 < share.max() < 0.145
    assert (shot.place == [0, 0, 96, 96]).all()
    assert shot.sigma.min() < 0.15
    assert 1.9 < shot.sigma.max() <= 2.0001
    assert not shot.solarize.any()


@pytest.mark.parametrize("box", [(0.3, 0.1, 0.5, 0.7), (0.5, 0.5, 0.05, 0.05)])
def test_local_views_inside_the_box(box: tuple[float, ...]):
    inside = ViewSpec(local=Local(count=1, inside_box=True))
    assert inside.needs_boxes
    n = 3000
    shot, free = (plan(spec.shots["local"], n, 2, np.float32(box)) for spec in (inside, ViewSpec(local=Local(count=1))))
    left, top, width, height = pixels(np.float32([box]), np.array([[300, 200]]))[0]
    x, y, w, h = shot.source.T
    assert (x >= left).all()
    assert (y >= top).all()
    assert (x + w <= left + width).all()
    assert (y + h <= top + height).all()
    if box[2] > 0.2:  # the same sizes as without boxes, wherever the first attempt fits
        assert np.mean((shot.source[:, 2:] == free.source[:, 2:]).all(1)) > 0.95
        assert x.min() == left
        assert (x + w).max() == left + width
    else:  # no attempt fits: all of the box, 15 x 10 pixels, trimmed to 4 : 3
        assert (shot.source == [151, 100, 13, 10]).all()


# Lent views


def test_lent_views_come_from_every_image_of_the_other_sets():
    own, spec = MemorySet(40), ViewSpec(size=16, lent=True)
    others = open_backgrounds([MemorySet(3), MemorySet(4)], own, "train", spec)  # type: ignore
    work = [
        gather(own, spec, None, np.arange(40), 40, backgrounds=others, **KEYS | {"epoch": epoch})  # type: ignore
        for epoch in range(2)
    ]
    names = [[image.name.split(" of ")[0] + str(image.size) for image in batch.lent] for batch in work]
    assert len(set(names[0])) == 7
    assert names[0] != names[1]
    shot = work[0].shots["lent"][0]
    sizes = np.array([image.size for image in work[0].lent])
    assert (shot.source[:, :2] + shot.source[:, 2:] <= sizes).all()
    assert not np.array_equal(shot.flip, work[0].geometries[0].flip)


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blur": (0.5, 0.1, 0.1)}, "views.blur is .*or one for each of the 2 views"),
        ({"solarize": (0.0, 1.1)}, "views.solarize is .*probability"),
        ({"solarize": -1.0}, "views.solarize is -1.0"),
        ({"strength": 1.5}, "views.strength is 1.5; allowed: a factor"),
        ({"strength": (1.0, 1.0, 1.0)}, "one for each of the 2 views"),
        ({"area": ((0.2, 1.0),)}, "or two for each of the 2 views"),
        ({"area": ((0.2, 1.0), (0.5, 0.4))}, "views.area is "),
        ({"area": (0.2, 1.0, 0.2, 1.0)}, "views.area is "),
        ({"area": ()}, "views.area is "),
    ],
)
def test_a_spec_refuses(fields: dict, message: str):
    with pytest.raises(InputError, match=message):
        ViewSpec(**fields)


@pytest.mark.parametrize("fields", [{"count": 65}, {"size": 4}, {"area": (0.2, 0.1)}, {"blur": 2.0}])
def test_local_refuses(fields: dict):
    with pytest.raises(InputError, match=f"views.local.{next(iter(fields))} is .*allowed"):
        Local(**fields)


def test_lent_views_need_another_set():
    with pytest.raises(InputError, match="lent=True needs backgrounds: name one or more other shard sets"):
        open_loader(8, ViewSpec(size=16, lent=True))


# Boxes that change


def boxes(n: int, left: float) -> np.ndarray:
    return np.tile(np.float32([left, 0.25, 0.25, 0.25]), (n, 1))


GIVEN = ViewSpec(size=16, crop="contrastive", crop_box="given", boxes=True)


def test_set_boxes_take_effect_at_the_next_epoch(backend: str):
    """Against a loader that has the boxes from its first epoch: batches in preparation do not keep the old ones."""
    shards = MemorySet(16)
    with open_loader(shards, GIVEN, backend=backend) as loader, open_loader(shards, GIVEN, backend=backend) as other:
        first = list(loader)
        other.set_boxes(np.tile(WHOLE, (16, 1)))
        assert all(same(a, b) for a, b in zip(first, other, strict=True))  # the whole image until boxes are set
        running = iter(loader)
        epoch = [next(running)]
        loader.set_boxes(boxes(16, 0.5))  # within the second epoch: from the third on
        epoch += list(running)
        assert all(same(a, b) for a, b in zip(epoch, other, strict=True))
        other.set_boxes(boxes(16, 0.5))  # between two epochs
        third = list(loader)
        assert all(same(a, b) for a, b in zip(third, other, strict=True))
        loader.set_boxes(boxes(16, 0.1))
        assert not any(same(a, b) for a, b in zip(loader, other, strict=True))


def test_given_boxes_need_no_detector():
    bare = MemorySet(8)
    bare.detectors = ()
    for sample in bare.samples:
        del sample["gt.npy"], sample["rbd.npy"]
    with open_loader(bare, GIVEN) as loader:
        loader.set_boxes(boxes(8, 0.5))
        assert len(list(loader)) == 2


def test_resumption_with_boxes_that_were_set():
    shards = MemorySet(16)
    with open_loader(shards, GIVEN) as loader:
        list(loader)
        assert "boxes" not in loader.state_dict()
        loader.set_boxes(boxes(16, 0.5))
        running = iter(loader)
        next(running)
        state, rest = loader.state_dict(), list(running)
    with open_loader(shards, GIVEN) as again:
        for wrong in (None, boxes(16, 0.4)):
            if wrong is not None:
                again.set_boxes(wrong)
            with pytest.raises(InputError, match="run with other boxes.*Call set_boxes with the boxes of that run"):
                again.load_state_dict(state)
        again.set_boxes(boxes(16, 0.5))
        again.load_state_dict(state)
        assert all(same(a, b) for a, b in zip(rest, again, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], r"shape \(15, 4\); allowed: \(16, 4\)"),
        (lambda b: b * [1, 1, 4, 1], "box of sample 0 is .*inside the image"),
        (lambda b: np.where(np.arange(16)[:, None] == 3, np.nan, b), "box of sample 3"),
    ],
)
def test_set_boxes_refuses(change, message: str):
    with open_loader(16, GIVEN) as loader, pytest.raises(InputError, match=message):
        loader.set_boxes(change(boxes(16, 0.5)))


@pytest.mark.parametrize(
    ("spec", "crop"),
    [
        (ViewSpec(size=16), "rrc"),
        (ViewSpec(size=16, crop="contrastive", crop_box="centre"), "contrastive, with crop_box centre"),
    ],
)
def test_set_boxes_refuses_views_without_boxes(spec: ViewSpec, crop: str):
    with open_loader(16, spec) as loader, pytest.raises(InputError, match=f"use no boxes: their crop is {crop}[.]"):
        loader.set_boxes(boxes(16, 0.5))


# Draws


def test_columns_of_the_draws_do_not_move():
    names = (
        "X",
        "Y",
        "PLACE_AREA",
        "PLACE_X",
        "PLACE_Y",
        "FLIP",
        "JITTER",
        "GRAY",
        "BLUR",
        "SIGMA",
        "LENDER",
        "SOLARIZE",
    )
    assert [getattr(draws, name) for name in names] == [20, 21, 22, 23, 24, 25, 26, 35, 36, 37, 38, 39]
    assert (draws.AREA.start, draws.RATIO.start, draws.FACTORS.start, draws.ORDER.start) == (0, 10, 27, 31)


# The object's own view


def test_the_object_is_a_square_around_its_box_inside_the_image():
    def source(box: list[float]) -> list[int]:  # of an image of 300 x 200 pixels
        return plan(ViewSpec(crop="object"), 1, box=np.float32(box)).source[0].tolist()

    assert source([0.4, 0.4, 0.2, 0.2]) == [115, 65, 69, 69]  # 60 x 40 at (120, 80); 1.15 * 60 = 69, centred
    assert source([0.0, 0.7, 0.2, 0.3]) == [0, 131, 69, 69]  # moved into the image
    assert source([0.1, 0.25, 0.8, 0.5]) == [12, 0, 276, 200]  # 1.15 * 240 = 276 is more than its height
    assert source([0.0, 0.0, 1.0, 1.0]) == [0, 0, 300, 200]


def test_the_object_s_view_draws_nothing():
    spec = ViewSpec(size=32, crop="object", flip=1, jitter=1, object_size=48)
    shot = spec.shots["object"]
    assert (shot.crop, shot.size, shot.flip, shot.jitter, shot.blur, shot.object_size) == ("object", 48, 0, 0, 0, 0)
    one, other = (
        geometry.compute(shot, np.full((3, 2), 99), np.tile(WHOLE, (3, 1)), np.arange(3), view=v, **KEYS)
        for v in (0, 1)
    )
    for field in set(vars(one)) - {"grey"}:
        assert np.array_equal(getattr(one, field), getattr(other, field))
