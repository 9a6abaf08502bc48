"""Every Python block of docs/api.md and of the README runs, on the drawn set in place of shards/cub."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import DOCS, PAGES, README, python_block, python_blocks

import fgdata

BLOCKS = python_blocks(DOCS / "api.md")


def test_every_block_of_every_page_is_run_by_a_test():
    """Here; in test_extending.py; guides.md in test_site.py and test_evaluate.py; training.md in test_evaluate.py; the
    README's third one in test_library_example.py. Whoever adds a block adds a test that runs it, and then counts it
    here."""
    found = {page.name: len(python_blocks(page)) for page in PAGES if python_blocks(page)}
    assert found == {"README.md": 3, "api.md": len(BLOCKS), "extending.md": 3, "guides.md": 2, "training.md": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves tars open
def test_the_readme_reads_a_set_without_fgdata(drawn_set: Path):
    pytest.importorskip("webdataset", reason="webdataset is not installed: pip install webdataset")
    tars = [str(path) for path in sorted(drawn_set.glob("train-*.tar"))]
    code = python_block(README, "webdataset").replace('"shards/cub/train-{000000..000023}.tar"', repr(tars))
    names: dict = {}
    exec(compile(code.replace("rbd.npy", "gt.npy"), "README.md", "exec"), names)
    reader = fgdata.ShardSet.open(drawn_set).split("train")
    np.testing.assert_array_equal(names["box"], fgdata.box(reader.read(len(reader) - 1), "gt"))
    names.clear()
    gc.collect()


def test_the_readmes_views(drawn_set: Path):
    code = python_block(README, 'batch["masks"]').replace("shards/cub", str(drawn_set))
    names: dict = {}
    exec(compile(code.replace("224", "32").replace("batch_size=64", "batch_size=16"), "README.md", "exec"), names)
    assert [tuple(names[name].shape) for name in ("x1", "x2", "m1", "m2")] == [(16, 3, 32, 32)] * 2 + [
        (16, 1, 32, 32)
    ] * 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_page_runs(number: int, drawn_set: Path):
    code = BLOCKS[number].replace("shards/cub", str(drawn_set))
    for old, new in (("224", "32"), ("size=96", "size=32"), ("size=64", "size=32"), ("batch_size=64", "batch_size=16")):
        code = code.replace(old, new)
    names: dict = {}
    exec(compile(code, f"docs/api.md, block {number}", "exec"), names)
    batch = names.get("batch") or names["second"]
    assert torch.isfinite(batch["views"]).all()
    if "state" in names:
        again = next(iter(names["loader"]))
        assert torch.equal(again["views"], names["second"]["views"])
        names["loader"].close()


def test_the_table_of_a_batch_is_right(drawn_set: Path):
    views = fgdata.ViewSpec(size=32, crop="saliency-swap", masks=True, plain=True, boxes=True)
    with fgdata.load(drawn_set, views=views, batch_size=16, detector="gt", box=True) as loader:
        batch = next(iter(loader))
        declared = loader.tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        **{"views": (2, 16, 3, 32, 32), "masks": (2, 16, 1, 32, 32), "plain": (16, 3, 32, 32)},
        **{"label": (16,), "index": (16,), "boxes": (2, 16, 4), "box": (16, 4)},
    }
    assert {name: tuple(16 if n == -1 else n for n in shape) for name, shape in declared.items()} == shapes
    reader = fgdata.ShardSet.open(drawn_set).split("train")
    for number, box in zip(batch["index"].tolist(), batch["box"].numpy()):
        np.testing.assert_array_equal(box, fgdata.box(reader.read(number), "gt"))


def test_box_does_not_change_the_views_or_the_state(drawn_set: Path):
    views = fgdata.ViewSpec(size=32)
    plain, boxed = (fgdata.load(drawn_set, views=views, batch_size=16, box=box) for box in (False, True))
    one, two = next(iter(plain)), next(iter(boxed))
    assert torch.equal(one["views"], two["views"])
    assert "box" not in one
    plain.close()
    boxed.close()


def test_dir_lists_the_public_names():
    assert dir(fgdata) == sorted(["ShardSet", "ViewSpec", "__version__", "box", "label", "load", "meta"])


def test_errors_of_the_api_do_not_speak_of_flags(drawn_set: Path):
    from fgdata.errors import InputError

    attempts = [
        lambda: fgdata.ViewSpec(size=1),
        lambda: fgdata.ViewSpec(patch_area=2),
        lambda: fgdata.load(drawn_set, views=fgdata.ViewSpec(size=32), batch_size=100),
        lambda: fgdata.load(drawn_set, views=fgdata.ViewSpec(size=32), batch_size=4, backgrounds=drawn_set),
        lambda: fgdata.load(drawn_set, views=fgdata.ViewSpec(size=32), batch_size=4, split="dev"),
        lambda: fgdata.load(drawn_set, views=fgdata.ViewSpec(size=32), batch_size=4, threads=0),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as fault:
            attempt()
        assert "--" not in str(fault.value)
