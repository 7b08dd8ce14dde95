# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Canny against its rules, written down pixel by pixel, and against OpenCV where it is installed; laws of all maps."""

import math

import numpy as np
import pytest
from scipy import ndimage

from dreambooth_jax.data.control_maps import MAPS, canny, scribble
from dreambooth_jax.errors import InputError


def grey(levels):
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=-1)


def edges(photo, **how):
    found = canny(photo, **how)
    assert found.shape == photo.shape
    assert set(np.unique(found)) <= {0, 255}
    assert (found == found[..., :1]).all()
    return found[..., 0] > 0


def photos():
    """Noise, and soft shapes whose gradients have all directions."""
    r = np.random.default_rng(0)
    for number in range(12):
        height, width = r.integers(1, 24, 2)
        noise = r.integers(0, 256, (height, width, 3)).astype(np.uint8)
        yield noise
        soft = ndimage.gaussian_filter(noise.astype(float), (1 + number % 3, 1, 0))
        yield np.rint(255 * (soft - soft.min()) / max(np.ptp(soft), 1)).astype(np.uint8)


def by_the_rules(photo, low, high):
    """The four rules, one pixel after the other, by angles."""
    height, width, _ = photo.shape

    def level(y, x):
        return photo[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].astype(int)

    def gradient(y, x):
        gx = sum(w * (level(y + d, x + 1) - level(y + d, x - 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
        gy = sum(w * (level(y + 1, x + d) - level(y - 1, x + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
        colour = np.argmax(np.abs(gx) + np.abs(gy))
        return int(gx[colour]), int(gy[colour])

    gradients = {(y, x): gradient(y, x) for y in range(height) for x in range(width)}

    def size(y, x):
        gx, gy = gradients.get((y, x), (0, 0))
        return abs(gx) + abs(gy)

    ridges = set()
    for (y, x), (gx, gy) in gradients.items():
        angle = math.degrees(math.atan2(abs(gy), abs(gx)))
        here = size(y, x)
        if angle < 22.5:
            fine = here > size(y, x - 1) and here >= size(y, x + 1)
        elif angle > 67.5:
            fine = here > size(y - 1, x) and here >= size(y + 1, x)
        else:
            right = 1 if (gx < 0) == (gy < 0) else -1
            fine = here > size(y - 1, x - right) and here > size(y + 1, x + right)
        if fine and here > low:
            ridges.add((y, x))
    found = np.zeros((height, width), bool)
    waiting = [place for place in ridges if size(*place) > high]
    while waiting:
        y, x = waiting.pop()
        if found[y, x]:
            continue
        found[y, x] = True
        waiting += [(y + d, x + e) for d in (-1, 0, 1) for e in (-1, 0, 1) if (y + d, x + e) in ridges]
    return found


@pytest.mark.parametrize(("low", "high"), [(100, 200), (20, 400), (0, 0)])
def test_canny_is_what_its_rules_say(low, high):
    some = 0
    for photo in photos():
        expected = by_the_rules(photo, low, high)
        np.testing.assert_array_equal(edges(photo, low=low, high=high), expected)
        some += expected.sum()
    assert some > 100


def test_canny_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    for photo in photos():
        np.testing.assert_array_equal(edges(photo), cv2.Canny(photo, 100, 200) > 0)


class TestCanny:
    def test_a_step_is_one_line(self):
        photo = grey(np.where(np.arange(20) < 9, 0, 255)[None].repeat(12, axis=0))
        found = edges(photo)
        assert found.sum() == 12
        assert found[:, 8].all()

    def test_a_disc_is_a_closed_ring_at_its_radius(self):
        y, x = np.mgrid[:64, :64] - 32.0
        found = edges(grey(np.where(np.hypot(y, x) < 20, 255, 0)))
        radii = np.hypot(y, x)[found]
        assert abs(radii - 20).max() < 1.5
        labels, count = ndimage.label(~found)  # inside and outside do not touch across it
        assert count == 2
        assert labels[32, 32] != labels[0, 0]

    def test_nothing_has_no_edges(self):
        assert not edges(grey(np.full((9, 9), 77))).any()
        ramp = grey(np.arange(30)[None].repeat(9, axis=0))  # a slope of 8 everywhere
        assert not edges(ramp).any()

    def test_the_negative_of_two_levels_has_as_many(self):
        r = np.random.default_rng(1)
        photo = grey(np.where(ndimage.gaussian_filter(r.normal(size=(40, 40)), 3) > 0, 255, 0))
        assert 0.8 < edges(photo).sum() / edges(255 - photo).sum() < 1.25

    def test_a_weak_edge_stays_where_it_hangs_on_a_strong_one(self):
        def found(brightest):
            levels = np.zeros((40, 20))
            levels[:, 10:] = np.linspace(30, brightest, 40)[:, None]  # |gx| is four times as much
            return edges(grey(levels), low=100, high=300)[:, 9:11].any(axis=1)

        assert found(90).all()
        assert not found(60).any()

    def test_higher_thresholds_keep_less(self):
        for photo in photos():
            assert (edges(photo, low=50, high=100) >= edges(photo, low=100, high=200)).all()

    def test_blur_removes_noise(self):
        r = np.random.default_rng(2)
        photo = grey(np.clip(np.where(np.arange(48) < 24, 60, 200)[None] + 12 * r.normal(size=(48, 48)), 0, 255))
        sharp, blurred = edges(photo, low=50, high=100), edges(photo, low=50, high=100, sigma=2.0)
        assert blurred[:, 22:26].any(axis=1).all()
        assert not np.delete(blurred, np.arange(18, 30), axis=1).any()
        assert np.delete(sharp, np.arange(18, 30), axis=1).any()

    def test_thresholds_are_in_order(self):
        with pytest.raises(InputError, match="200 and 100"):
            canny(grey(np.zeros((4, 4))), low=200, high=100)


def test_a_scribble_is_white_on_black_whatever_it_is_on():
    lines = np.zeros((20, 20))
    lines[5], lines[:, 7] = 255, 255
    expected = grey(lines)
    np.testing.assert_array_equal(scribble(expected), expected)
    np.testing.assert_array_equal(scribble(255 - expected), expected)
    np.testing.assert_array_equal(scribble(grey(np.clip(lines, 90, 180))), expected)
    assert not scribble(grey(np.full((8, 8), 250))).any()


def test_what_is_a_map_already_stays():
    depth = grey(np.random.default_rng(3).integers(0, 256, (6, 5)))
    np.testing.assert_array_equal(MAPS["depth"](depth), depth)
