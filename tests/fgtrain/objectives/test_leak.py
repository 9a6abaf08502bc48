"""The leak check of foreground: a linear layer on thumbnails, against closed forms, and what a run says and records."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainable import small

from fgtrain.engine import lifecycle
from fgtrain.objectives.leak import thumbnails, told_apart


def test_a_thumbnail_has_the_means_of_8_by_8_cells():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = x.double().view(2, 3, 8, 4, 8, 4).mean((3, 5)).flatten(1)
    torch.testing.assert_close(thumbnails(x), expected)
    assert thumbnails(torch.rand(1, 3, 30, 30)).shape == (1, 192)


def test_the_layer_is_ridge_regression_on_the_even_rows():
    generator = torch.Generator().manual_seed(1)
    first, second = (
        torch.rand(40, 5, generator=generator).double() + 0.1,
        torch.rand(40, 5, generator=generator).double(),
    )
    x = np.concatenate([first[::2], second[::2]])
    mean, spread = x.mean(0), x.std(0)
    rows = np.vstack([(x - mean) / spread, np.sqrt(0.1 * 40) * np.eye(5)])  # the penalty as more rows
    w = np.linalg.lstsq(rows, np.r_[np.ones(20), -np.ones(20), np.zeros(5)], rcond=None)[0]
    right = [(side[1::2].numpy() - mean) / spread @ w * sign > 0 for side, sign in ((first, 1), (second, -1))]
    assert told_apart(first, second).tolist() == np.concatenate(right).tolist()


def test_sets_that_differ_are_told_apart_and_equal_ones_are_not():
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(2, 400, 192, generator=generator, dtype=torch.float64)
    assert 0.4 < told_apart(first, second).double().mean() < 0.6
    brighter = second + 1
    assert told_apart(first, brighter).all()
    constant = torch.zeros(8, 192, dtype=torch.float64)
    assert told_apart(constant, constant).double().mean() <= 0.5  # nothing to see, no division by zero


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_says_before_its_first_step_what_thumbnails_give_away(resumed: bool, drawn_set: Path, tmp_path: Path):
    config = replace(small(drawn_set, tmp_path / "run", "foreground"), epochs=1)
    run = lifecycle.train(config, "foreground")
    if resumed:
        run = lifecycle.train(replace(config, machine=replace(config.machine, resume=True)), "foreground")
    log = (run / "log.txt").read_text()
    assert (
        log.count("leak check: a linear layer on thumbnails of 8 x 8 pixels distinguishes the two kinds of images") == 1
    )
    assert log.index("leak check") < log.index("step 4/4")
    found = json.loads((run / "run.json").read_text())["leak"]
    assert found["n"] == 32
    assert 0 <= found["accuracy"] <= 1
    assert found["standard_error"] == pytest.approx((found["accuracy"] * (1 - found["accuracy"]) / 32) ** 0.5)
