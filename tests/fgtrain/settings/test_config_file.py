"""Settings of recipes, and as they are read back from config.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fgdata.errors import InputError
from fgtrain.settings import common, file, recipes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_first_line_of_a_recipes_docstring_is_a_sentence(name: str):
    """`fgtrain list` prints only the first line."""
    first, blank, *_ = (recipes.RECIPES[name].__doc__ or "").splitlines()
    assert first.endswith(".")
    assert not blank


def test_how_a_run_reads_its_set_is_no_change_of_its_settings():
    plain = recipes.byol()
    read = replace(plain, data=replace(plain.data, readers=3, ahead=9, shards=Path("elsewhere")))
    assert file.differences(file.relevant(plain), file.relevant(read)) == {}
    assert "data.batch_size" in file.relevant(plain)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_config_is_unchanged_by_writing_and_reading_it(name: str, tmp_path: Path):
    config = replace(recipes.RECIPES[name](), epochs=7, data=common.Data(tmp_path, detector="rbd"))
    reread = file.from_dict(json.loads(json.dumps(file.to_dict(config))), "config.json")
    assert reread == config
    assert type(reread) is type(config)
    assert file.differences(file.relevant(config), file.relevant(reread)) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "swav"}, "'swav'.*byol, moco, simsiam, simclr, cvsa"),
        ({"epoch": 3}, r"setting 'epoch'.*epochs"),
        ({"epochs": "3"}, "epochs is '3'; expected int"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"seed": 1 << 64}, "--seed is 18446744073709551616; allowed: "),
        ({"optim": {"lr": 1e300}}, "--optim.lr is 1e.300; allowed: above 0, at most 1e.30"),
        ({"optim": {"weight_decay": 1e300}}, "--optim.weight-decay is 1e.300; allowed: 0 to 1e.30"),
        ({"optim": {"lr": float("inf")}}, "--optim.lr is inf; allowed: a finite number"),
        ({"optim": {"weight_decay": float("nan")}}, "--optim.weight-decay is nan; allowed: a finite number"),
        ({"optim": {"momentum": 1.0}}, "--optim.momentum is 1.0; allowed: 0 to below 1"),
        ({"optim": {"warmup_epochs": -1.0}}, "--optim.warmup-epochs is -1.0; allowed: 0 to 1e.30"),
        (
            {"views": {"mean": [0.5, float("nan"), 0.5]}},
            r"views.mean is \(0.5, nan, 0.5\); allowed: a tuple of three numbers from -10 to 10",
        ),
        ({"machine": {"threads": 0}}, "--threads is 0; allowed: 1 to 1024"),
        ({"data": {"batch_size": 1}}, "--data.batch-size is 1; allowed: 2 or more"),
        ({"views": {"views": 3}}, "--views.views is 3"),
        ({"machine": {"log_every": 0}}, "--log-every is 0"),
        ({"views": {"size": 4}}, "allowed: a whole number"),
        ({"moco": {"queue": "all"}}, r"moco\.queue is 'all'"),
    ],
)
def test_an_error_in_a_config_file_is_named(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        file.from_dict({**file.to_dict(recipes.cvsa()), **change}, "config.json")
