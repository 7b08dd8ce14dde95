# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

sides = st.integers(1, 10**6)


@given(sides, sides)
def test_a_setting_is_read_back(height, width):
    assert Size.parse(Size(height, width).setting) == (height, width)


@pytest.mark.parametrize("setting", ["768x512", "768X512", " 768 x 512 ", "768×512"])
def test_people_write_width_first(setting):
    assert Size.parse(setting) == Size(height=512, width=768)


@pytest.mark.parametrize("setting", [512, "512", "512x512"])
def test_a_square_is_one_number(setting):
    assert Size.parse(setting) == Size(512, 512)
    assert Size.parse(setting).setting == 512


@pytest.mark.parametrize(
    "setting", ["", "x", "512x", "x512", "1x2x3", "-8", -8, 0, "0x8", "8x0", "5.5", "1e3", "1" * 30]
)
def test_what_is_no_size_is_refused_with_the_way_out(setting):
    with pytest.raises(InputError, match="is no size: write 512 for a square, or width x height"):
        Size.parse(setting)
