"""Every setting of views answers a value of another type with an error that names it."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from fgdata.errors import InputError
from fgdata.views import Local, ViewSpec

WRONG: list[Any] = [
    None,
    "0.5",
    "ab",
    [0.2, 1.0],
    ["rrc"],
    (),
    ("a", "b"),
    (0.2, None),
    {},
    np.float32(0.5),
    1j,
    object(),
]
WRONG += [
    np.array([0.2, 1.0]),
    (0.2, 1.0, 0.5, 1.0),
    float("nan"),
    (float("nan"),) * 3,
    ((0.2, 1.0), 0.5),
    (True, True),
]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: "object" if type(value) is object else repr(value))
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field.name) for kind in (ViewSpec, Local) for field in fields(kind)]
)
def test_a_value_of_another_type_is_named(kind: type, field: str, value: Any):
    name = f"views.{'local.' * (kind is Local)}{field}"
    with pytest.raises(InputError) as caught:
        kind(**{field: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; allowed: ")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"area": 0.5}, "views.area is 0.5; allowed: two shares of the image, 0 < low <= high <= 1"),
        ({"area": ((0.2, 1.0),)}, "or two for each of the 2 views, as tuples"),
        ({"blur": (0.5,)}, "a probability, 0 to 1, or one for each of the 2 views, as a tuple"),
        ({"size": 224.0}, "views.size is 224.0; allowed: a whole number from 8 to 4096"),
        ({"size": np.int64(224)}, "a whole number from 8 to 4096"),
        ({"views": True}, "views.views is True; allowed: a whole number from 1 to 64"),
        ({"object_size": 48.0}, "0, or a whole number from 8 to 4096"),
        ({"flip": True}, "views.flip is True; allowed: a probability, 0 to 1"),
        ({"mean": (0.5, 0.5)}, "a tuple of three numbers from -10 to 10"),
        ({"masks": 1}, "views.masks is 1; allowed: True, False"),
        ({"local": 8}, "views.local is 8; allowed: an fgdata.views.Local"),
        ({"crop": "randomresizedcrop"}, "views.crop is 'randomresizedcrop'; allowed: rrc, "),
    ],
)
def test_what_is_allowed_is_said(values: dict[str, Any], error: str):
    with pytest.raises(InputError) as caught:
        ViewSpec(**values)
    assert error in str(caught.value)


def test_what_is_allowed():
    ViewSpec(area=(1, 1), flip=0, jitter=1, std=(1, 1, 1), aspect=(1, 1), sigma=(1, 2))
    ViewSpec(views=3, area=((0.2, 1.0),) * 3, blur=(0, 0.5, 1), solarize=(0.0, 0.0, 0.2), strength=(1, 1, 0))
    ViewSpec(views=1, flip=float(np.float64(0.5)), blur=np.float64(0.5), object_size=8)
