# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Plots as SVG: means with their intervals."""

from collections.abc import Sequence
from html import escape

from dreambooth_jax.config.setting import Number
from dreambooth_jax.evaluation.bootstrap import Estimate

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
"""Told apart by everybody (Okabe and Ito 2008), in this order again and again."""
WIDTH, ROW, LABEL, SIDE, EDGE = 300, 24, 110, 320, 46
LETTERS = 16
"""Of a name in a plot."""


class Axis:
    """Numbers to pixels, with some room at both ends."""

    def __init__(self, estimates: Sequence[Estimate | None], start: Number, end: Number):
        low = min(one.low for one in estimates if one)
        high = max(one.high for one in estimates if one)
        room = 0.08 * (high - low) or 0.05
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: Number) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ends(self) -> tuple[float, float]:
        """Values at both ends."""
        return self.low, self.high


def intervals(names: Sequence[str], estimates: Sequence[Estimate | None]) -> str:
    """One line for each name."""
    axis, height = Axis(estimates, LABEL, WIDTH - 12), ROW * len(names) + 22
    parts = []
    for number, (name, one) in enumerate(zip(names, estimates)):
        y = ROW * number + ROW / 2
        parts.append(_text(LABEL - 8, y + 4, name, "end"))
        if one:
            colour = COLOURS[number % len(COLOURS)]
            parts.append(_line((axis(one.low), y), (axis(one.high), y), colour, 2))
            parts.append(_dot(axis(one.mean), y, colour))
    bottom = ROW * len(names) + 2
    parts.append(_line((LABEL, bottom), (WIDTH - 12, bottom), "#888", 1))
    parts += [_text(axis(value), bottom + 15, f"{value:.2f}", "middle") for value in axis.ends]
    return _svg(WIDTH, height, parts)


def plane(
    names: Sequence[str], x: str, across: Sequence[Estimate | None], y: str, upwards: Sequence[Estimate | None]
) -> str:
    """One cross for each name: what is further up and to the right is better."""
    right, up = Axis(across, EDGE, SIDE - 12), Axis(upwards, SIDE - EDGE, 12)
    parts = [
        _line((EDGE, SIDE - EDGE), (SIDE - 12, SIDE - EDGE), "#888", 1),
        _line((EDGE, SIDE - EDGE), (EDGE, 12), "#888", 1),
        _text((EDGE + SIDE) / 2, SIDE - 8, x, "middle"),
        f'<text x="12" y="{SIDE / 2}" text-anchor="middle" transform="rotate(-90 12 {SIDE / 2})">{escape(y)}</text>',
        *(_text(right(value), SIDE - EDGE + 16, f"{value:.2f}", "middle") for value in right.ends),
        *(_text(EDGE - 4, up(value) + 4, f"{value:.2f}", "end") for value in up.ends),
    ]
    for number, (name, one, other) in enumerate(zip(names, across, upwards)):
        if one and other:
            colour = COLOURS[number % len(COLOURS)]
            parts.append(_line((right(one.low), up(other.mean)), (right(one.high), up(other.mean)), colour, 1.5))
            parts.append(_line((right(one.mean), up(other.low)), (right(one.mean), up(other.high)), colour, 1.5))
            parts.append(_dot(right(one.mean), up(other.mean), colour))
            is_left = right(one.mean) < SIDE / 2  # names stay inside
            place = right(one.mean) + (7 if is_left else -7)
            parts.append(_text(place, up(other.mean) - 7, name, "start" if is_left else "end"))
    return _svg(SIDE, SIDE, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'


def _line(begin: tuple[Number, Number], end: tuple[Number, Number], colour: str, width: Number) -> str:
    (x1, y1), (x2, y2) = begin, end
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _dot(x: Number, y: Number, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _text(x: Number, y: Number, text: str, anchor: str) -> str:
    short = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
    title = f"<title>{escape(text)}</title>" if short != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{title}{escape(short)}</text>'
