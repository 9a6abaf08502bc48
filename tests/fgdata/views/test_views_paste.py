"""SaliencySwap over other shard sets (`paste`): places of patches, their backgrounds, and refusals."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fgdata.building.build import build
from fgdata.datasets import read
from fgdata.errors import InputError
from fgdata.images import decode, encode_jpeg
from fgdata.shards.reader import ShardSet
from fgdata.shards.sample import Sample
from fgdata.views import Loader, Local, ViewSpec, draws, geometry, load, reference
from fgdata.views.backgrounds import open_backgrounds
from fgdata.views.batch import gather

SWAP = ViewSpec(size=64, crop="saliency-swap", masks=True)
STILL = ViewSpec(size=32, crop="saliency-swap", masks=True, jitter=0, grayscale=0, blur=0)
GREYS = 20  # levels between neighbouring samples of Greys


class Greys(ShardSet):
    """The part of a shard set that the loader uses: sample i is one flat grey, first + GREYS i, over all splits."""

    detectors = ("gt",)

    def __init__(self, first: int, digest: str, **splits: int):
        self.path, self.folder, self.manifest, self.splits = Path(digest), Path(digest), {"digest": digest}, splits
        self._first = first

    def split(self, name: str) -> "Part":
        names = list(self.splits)
        return Part(self, name, sum(self.splits[n] for n in names[: names.index(name)]), self.splits[name])


class Part:
    def __init__(self, owner: Greys, name: str, start: int, count: int):
        self.folder, self.split, self._first, self._count = owner.folder, name, owner._first + GREYS * start, count

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> Sample:
        grey = np.full((40, 60, 3), self._first + GREYS * number, np.uint8)
        box = np.array([0.25, 0.25, 0.5, 0.5], "<f4").tobytes()
        sample = Sample({"jpg": encode_jpeg(grey, 100), "cls": b"0", "gt.npy": box})
        sample.info = {"id": f"{self.folder}-{number}", "width": 60, "height": 40}
        return sample


def open_loader(shards, behind, spec: ViewSpec = STILL, **options) -> Loader:
    options = {"batch_size": 4, "seed": 3, "threads": 2, "backend": "threads"} | options
    return load(shards, views=spec, backgrounds=behind, **options)


def levels(batch: dict[str, torch.Tensor], spec: ViewSpec = STILL) -> torch.Tensor:
    return (batch["views"][:, :, 0] * spec.std[0] + spec.mean[0]) * 255


@pytest.fixture(params=["threads", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")
    return request.param


# Geometry


def places(n: int, box: tuple[float, float], spec: ViewSpec = SWAP) -> geometry.Geometry:
    """Geometries of n samples of 400 x 400 pixels with a box of this width and height, as shares."""
    sizes, boxes = np.full((n, 2), 400), np.tile(np.array([0.0, 0.0, *box], np.float32), (n, 1))
    return geometry.compute(spec, sizes, boxes, np.arange(n), seed=5, epoch=0, batch=0, view=0, lenders=10)


def test_a_square_patch_covers_a_uniform_share_of_the_view():
    spec = ViewSpec(size=1000, crop="saliency-swap", aspect=(1, 1), paste_area=0.3)
    share = places(4000, (0.9, 0.9), spec).place[:, 2:].prod(1) / 1000**2
    assert stats.kstest(share, "uniform", (0.3, 0.7)).pvalue > 0.001


def test_a_place_is_uniform_over_all_possible_ones():
    x, y, w, h = places(6000, (0.6, 0.6)).place.T
    assert min(x.min(), y.min()) >= 0
    assert max((x + w).max(), (y + h).max()) <= 64
    for start, length in ((x, w), (y, h)):
        free = 64 - length  # a start is uniform on 0 ... free, so (start + U) / (free + 1) is uniform on [0, 1]
        jittered = (start + np.random.default_rng(0).random(len(start))) / (free + 1)
        assert stats.kstest(jittered, "uniform").pvalue > 0.001


@pytest.mark.parametrize("box", [(0.9, 0.9), (0.9, 0.2), (0.05, 1.0), (0.0025, 0.0025)])
def test_a_patch_keeps_its_aspect_and_lies_in_its_box(box: tuple[float, float]):
    p = places(2000, box)
    low, high = np.array([0, 0]), np.maximum(1, np.rint(np.array(box) * 400))
    assert (p.source[:, :2] >= low).all()
    assert (p.source[:, :2] + p.source[:, 2:] <= high).all()
    zoom = p.place[:, 2:] / p.source[:, 2:]
    # Each of the four lengths is rounded to a pixel, so each zoom is exact up to (half a pixel) / length of either.
    slack = (0.5 / p.source[:, 2:] + 0.5 / p.place[:, 2:]).sum(1) * 1.1
    assert (np.abs(np.log(zoom[:, 0] / zoom[:, 1])) < slack + slack**2).all()


def test_a_patch_too_wide_for_the_view_is_cropped_not_squeezed():
    spec = ViewSpec(size=100, crop="saliency-swap", aspect=(1, 1), patch_area=1, paste_area=1)
    p = places(3, (1.0, 0.25), spec)  # 400 x 100 pixels: at the view's area 200 x 50, of which 100 x 50 fit
    assert p.place[:, 2:].tolist() == [[100, 50]] * 3
    assert p.source.tolist() == [[100, 0, 200, 100]] * 3


def test_lenders_and_places_differ_between_views_and_other_draws_do_not_change():
    sizes, boxes = np.full((500, 2), 400), np.tile(np.array([0.1, 0.1, 0.5, 0.5], np.float32), (500, 1))
    keys = {"seed": 1, "epoch": 2, "batch": 0}
    one, two = (geometry.compute(SWAP, sizes, boxes, np.arange(500), **keys, view=v, lenders=7) for v in (0, 1))
    assert stats.chisquare(np.bincount(one.partner, minlength=7)).pvalue > 0.001
    assert 0.5 < np.mean(one.partner != two.partner) < 0.95
    assert np.mean((one.place != two.place).any(1)) > 0.99
    swap = geometry.compute(SWAP, sizes, boxes, np.arange(500), **keys, view=0)
    for name in ("flip", "colour", "centre", "sigma"):
        assert np.array_equal(getattr(one, name), getattr(swap, name))


# Batches


def test_backgrounds_are_all_samples_of_all_splits_and_masks_are_exact(backend: str):
    own, behind = Greys(10, "own", train=3), [Greys(80, "a", train=2, val=1), Greys(140, "b", all=4)]
    backgrounds = []
    with open_loader(own, behind, backend=backend, batch_size=3) as loader:
        for _ in range(12):
            for batch in loader:
                number, inside = (levels(batch) - 10) / GREYS, batch["masks"][:, :, 0] > 0
                assert (number - batch["index"][None, :, None, None])[inside].abs().max() < 0.1
                outside = (levels(batch) - 80) / GREYS
                for view, mask in zip(outside.flatten(0, 1), inside.flatten(0, 1)):
                    if not mask.all():
                        value = view[~mask]
                        assert (value - value[0].round()).abs().max() < 0.1
                        backgrounds.append(int(value[0].round()))
    assert set(backgrounds) == set(range(7))


def test_one_image_and_batches_of_one_are_enough(backend: str):
    for count in (1, 5):  # 5 leaves a last batch of one
        with open_loader(
            Greys(10, "own", train=count), Greys(150, "a", train=1), backend=backend, last_batch="keep"
        ) as loader:
            index = [i for batch in loader for i in batch["index"].tolist()]
            assert sorted(index) == list(range(count))


@pytest.mark.parametrize("crop", ["saliency-swap", "paste"])
def test_paste_against_the_reference(backend: str, drawn_set: Path, crop: Any):
    shards = ShardSet.open(drawn_set)
    spec = ViewSpec(size=48, crop=crop, masks=True, plain=True)
    behind = open_backgrounds([Greys(30, "a", train=9)], shards, "train", spec)
    detector = "spectral-residual"
    with open_loader(
        shards, Greys(30, "a", train=9), spec, batch_size=12, backend=backend, detector=detector
    ) as loader:
        batch = next(iter(loader))
    index = batch["index"].numpy()
    work = gather(shards.split("train"), spec, detector, index, 12, backgrounds=behind, seed=3, epoch=0, batch=0)
    unit = np.array(spec.std)[:, None, None] * 255
    for i in range(12):
        image = decode(work.jpegs[i], "")
        assert np.abs(batch["plain"][i].numpy() - reference.plain(image, spec)).max() * 58 < 6
        for v, plan in enumerate(work.geometries):
            under = decode(work.backgrounds[v][i][1], "")
            error = unit * np.abs(batch["views"][v, i].numpy() - reference.view(image, plan, i, spec, under))
            assert error.mean() < 0.8  # as in test_loader.test_whole_views_against_the_reference
            assert np.quantile(error, 0.98) < 3
            assert np.array_equal(batch["masks"][v, i].numpy(), reference.mask(plan, i, 48))


def test_the_draw_of_a_background_depends_on_seed_epoch_sample_and_view_alone():
    own, behind = Greys(10, "own", train=9), Greys(80, "a", train=8)
    with (
        open_loader(own, behind, batch_size=4, last_batch="keep") as four,
        open_loader(own, behind, batch_size=3, last_batch="keep", threads=1) as three,
    ):
        a, b = (
            {int(i): x for batch in loader for i, x in zip(batch["index"], batch["views"].unbind(1))}
            for loader in (four, three)
        )
    assert all(torch.equal(a[i], b[i]) for i in range(9))


def test_resumption_in_mid_epoch_gives_the_same_batches(backend: str):
    own, behind = Greys(10, "own", train=9), Greys(80, "a", train=8)
    with open_loader(own, behind, backend=backend) as loader:
        running = iter(loader)
        next(running)
        state = json.loads(json.dumps(loader.state_dict()))
        rest = next(running)
    with open_loader(own, behind, backend=backend) as loader:
        loader.load_state_dict(state)
        assert torch.equal(next(iter(loader))["views"], rest["views"])
    with open_loader(own, Greys(80, "another", train=8)) as loader, pytest.raises(InputError, match="backgrounds was"):
        loader.load_state_dict(state)


# Refusals


def test_backgrounds_without_saliency_swap_are_refused():
    with pytest.raises(
        InputError, match="Only the crops saliency-swap, paste and matte-paste use backgrounds.*is rrc.*crop to one of"
    ):
        open_loader(Greys(10, "own", train=9), Greys(80, "a", train=8), ViewSpec(size=16))


def test_an_image_has_every_other_one_of_its_own_split_and_all_of_other_sets_behind_it(backend: str):
    own, behind = Greys(10, "own", test=2, train=3), Greys(150, "a", train=1, val=1)
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    with open_loader(own, [behind, own], backend=backend, batch_size=3) as loader:
        for _ in range(60):
            for batch in loader:
                outside = levels(batch)
                for view, masks in zip(outside, batch["masks"][:, :, 0] > 0):
                    for i, image, mask in zip(batch["index"].tolist(), view, masks):
                        if not mask.all():
                            found[i].append(round(float(image[~mask].mean())))
    train = {i: 10 + GREYS * (2 + i) for i in range(3)}
    for i, levels_behind in found.items():
        expected = [150, 170, *(level for j, level in train.items() if j != i)]
        near = [min(expected, key=lambda level: abs(level - value)) for value in levels_behind]
        assert max(abs(a - b) for a, b in zip(near, levels_behind)) <= 2, "neither itself nor an image of another split"
        assert stats.chisquare([near.count(level) for level in expected]).pvalue > 0.001


def test_a_background_of_other_sets_is_drawn_as_before_the_own_set_could_be_named():
    u = draws.uniforms(1, 2, np.arange(1000), 0, draws.COUNT)
    assert np.array_equal(draws.lender(u, 7), np.floor(u[:, draws.LENDER] * 7))
    own = np.arange(1000) % 7
    chosen = draws.lender(u, 7, own)
    assert (chosen != own).all()
    assert stats.chisquare(np.bincount((chosen - own) % 7, minlength=7)[1:]).pvalue > 0.001


def test_backgrounds_from_the_own_set_are_refused_where_it_would_lend_to_itself():
    own, one = Greys(10, "own", train=9), Greys(10, "one", train=1, test=5)
    with pytest.raises(InputError, match="own appears twice"):
        open_loader(own, [own, Greys(80, "a", train=8), own])
    with pytest.raises(InputError, match="one .*its own backgrounds.*has one image"):
        open_loader(one, one)
    with pytest.raises(InputError, match="own .*its own backgrounds.*another dataset"):
        open_loader(own, own, ViewSpec(size=16, lent=True))
    with pytest.raises(InputError, match="empty .*backgrounds.*no samples.*another set"):
        open_loader(own, Greys(80, "empty", train=0))


def test_backgrounds_from_a_set_of_the_same_images_are_refused(drawn_set: Path, tmp_path: Path):
    """The same birds at another --max-side and with other boxes, so another digest. Another seed paints other birds."""
    own = ShardSet.open(drawn_set)
    for seed, max_side in ((0, 64), (1, None)):
        birds = read("drawn", classes=4, images_per_class=12, size=96, seed=seed)
        build(birds, tmp_path / f"{seed}", saliency=("gt",), workers=1, max_side=max_side)
    assert ShardSet.open(tmp_path / "0").manifest["digest"] != own.manifest["digest"]
    with pytest.raises(InputError, match="0 .*backgrounds.*same images as .*drawn.*name .*drawn"):
        open_backgrounds([tmp_path / "0"], own, "train", STILL)
    others = open_backgrounds([tmp_path / "1"], own, "train", STILL)
    assert others is not None
    assert len(others) == 48


def test_a_folder_that_is_not_a_set_is_named(tmp_path: Path, drawn_set: Path):
    for folder in (tmp_path / "nowhere at all", tmp_path):
        with pytest.raises(InputError, match="set of backgrounds") as fault:
            open_backgrounds([folder], ShardSet.open(drawn_set), "train", STILL)
        assert str(folder) in str(fault.value) or shlex.quote(str(folder)) in str(fault.value)


def test_a_damaged_background_is_named_in_the_consumer():
    class Cut(Greys):
        def split(self, name: str) -> Part:
            part = super().split(name)
            whole = part.read

            def cut(number: int) -> Sample:
                sample = whole(number)
                sample["jpg"] = sample["jpg"][:-100]
                return sample

            part.read = cut  # type: ignore[method-assign]
            return part

    own = Greys(10, "own", train=9)
    with (
        open_loader(own, Cut(80, "cut", train=1)) as loader,
        pytest.raises(InputError, match="background cut-0 of cut"),
    ):
        next(iter(loader))


def test_more_draws_leave_the_first_38_unchanged():
    more = draws.uniforms(7, 3, np.arange(9), 1, draws.COUNT)
    assert np.array_equal(more[:, :38], draws.uniforms(7, 3, np.arange(9), 1, 38))


def test_only_settings_of_the_user_are_flags(capsys: pytest.CaptureFixture[str]):
    from fgtrain import cli

    with pytest.raises(SystemExit):
        cli.main(["run", "cvsa", "--help"])
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--data.backgrounds", "--views.crop", "--views.paste-area"))
    assert all(f"--views.{flag} " in shown for flag in ("crop-box", "crop-alpha", "solarize", "matte", "local.count"))
    assert not any(f"--views.{flag}" in shown for flag in ("masks", "plain", "views", "mattes", "boxes", "lent"))
    assert ViewSpec(views=3, masks=True, plain=True).plain  # users of the library may set these


def test_settings_of_views_survive_config_json():
    from fgtrain.settings import file, methods

    views = ViewSpec(crop="contrastive", blur=(1.0, 0.1), solarize=(0.0, 0.2), local=Local(8, 96, inside_box=True))
    config = methods.MocoConfig(views=views)
    stored = json.loads(json.dumps(file.to_dict(config)))
    assert file.from_dict(stored, "config.json") == config
    del stored["views"]["local"], stored["views"]["solarize"]  # as an older version wrote it
    assert file.from_dict(stored, "config.json").views == replace(views, local=Local(), solarize=0.0)


def test_the_sheet_shows_patches_over_other_backgrounds(drawn_set: Path, tmp_path: Path):
    from fgtrain import cli

    other = tmp_path / "other"
    build(read("drawn", classes=2, images_per_class=4, size=64, seed=1), other, saliency=("gt",), workers=1)
    sheets = []
    for extra in ([], ["--backgrounds", str(other)]):
        out = tmp_path / f"{len(extra)}.png"
        line = [
            "show",
            "views",
            "--shards",
            str(drawn_set),
            "--size",
            "64",
            "--rows",
            "2",
            "--out",
            str(out),
            *extra,
        ]
        assert cli.main(line) == 0
        sheets.append(decode(out.read_bytes(), "").astype(int))
    differs = (sheets[0] != sheets[1]).any((0, 2))
    assert differs[-100:].any()  # the last two columns, and their heading
    assert not differs[:240].any()  # the image and the swapped views
