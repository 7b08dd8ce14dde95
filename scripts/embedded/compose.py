# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Captioned pictures of sprites before backgrounds. What a caption says is true of its picture by construction.

    picture := thing [place] where | thing rel thing where | thing "wearing" hat where
    thing   := a [small|big] [style] [colour] word          word: name, noun, or the word above it
    place   := on the left | on the right | at the top | at the bottom
    rel     := and | next to | above

Picture i of a seed depends on the two numbers alone, so any number of processes composes the same corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax.evaluation.drawn_scenes import BACKGROUNDS, PLACES

from . import scenes
from .colours import HUES, recolour
from .sprites import Sprite, decode, weights

RELATIONS = {"and": 0.4, "next to": 0.35, "above": 0.25}
HATS = ("top hat", "crown", "graduation cap", "sun hat", "cap")
_SINGULAR = (
    *("bus", "trolleybus", "minibus", "cactus", "octopus", "lotus", "compass", "walrus", "hippopotamus"),
    *("rhinoceros", "lens", "claus", "tennis", "hibiscus", "albatross", "bass", "abacus", "christmas"),
)
_UNCOUNTED = (
    *("food", "clothing", "spaghetti", "bacon", "rice", "bread", "soap", "butter", "salt", "popcorn", "yarn"),
    *("thread", "fire", "garlic", "ice", "people", "badminton", "lacrosse", "custard", "oden", "corn", "sushi"),
)


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How often what is said and shown, as shares of one."""

    size: int = 64
    """Side of a picture in pixels."""
    class_exponent: float = -0.5
    """A sprite is drawn with (size of its class)^this."""
    one: float = 0.66
    """Pictures of one thing; of the rest a quarter tries a hat, where the thing can wear one."""
    small: float = 0.12
    big: float = 0.08
    placed: float = 0.16
    plain: float = 0.62
    patterned: float = 0.13
    say_style: float = 0.6
    say_colour: float = 0.35
    recolour: float = 0.3
    say_name: float = 0.7
    say_above: float = 0.05


class Composer:
    """Sprites and a grammar; a callable that makes picture i."""

    def __init__(self, sprites: Sequence[Sprite], grammar: Grammar, *, seed: int):
        self.sprites, self.grammar, self.seed = sprites, grammar, seed
        self._cumulative = np.cumsum(weights(sprites, grammar.class_exponent))
        self._hats = [sprite for sprite in sprites if sprite.name in HATS]

    def __call__(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], str]:
        """(picture, caption) number ``index``."""
        rng = np.random.default_rng((self.seed, index))
        grammar, sprite = self.grammar, self._draw(rng)
        canvas, where = scenes.background(rng, 2 * grammar.size, plain=grammar.plain, patterned=grammar.patterned)
        kind = rng.random()
        if kind < grammar.one:
            canvas, what = self._one(rng, canvas, sprite)
        elif kind < grammar.one + (1 - grammar.one) / 4 and self._hats and sprite.wears_hats:
            canvas, what = self._hatted(rng, canvas, sprite)
        else:
            canvas, what = self._two(rng, canvas, sprite)
        return self._finished(canvas), f"{what} {where}"

    def alone(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], Sprite]:
        """(picture of one thing, which) number ``index``."""
        rng = np.random.default_rng((self.seed, index))
        grammar, sprite = self.grammar, self._draw(rng)
        canvas, _ = scenes.background(rng, 2 * grammar.size, plain=grammar.plain, patterned=grammar.patterned)
        canvas, _ = self._one(rng, canvas, sprite)
        return self._finished(canvas), sprite

    def _finished(self, canvas: Image.Image) -> UInt8[np.ndarray, "s s 3"]:
        return np.asarray(canvas.resize((self.grammar.size, self.grammar.size), Image.Resampling.BOX))

    def _draw(self, rng: np.random.Generator) -> Sprite:
        chosen = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        return self.sprites[min(chosen, len(self.sprites) - 1)]

    def _one(self, rng: np.random.Generator, canvas: Image.Image, sprite: Sprite) -> tuple[Image.Image, str]:
        picture, words = self._thing(rng, sprite)
        grammar, kind = self.grammar, rng.random()
        (x, y), place, scale = (0.5, 0.5), "", rng.uniform(0.7, 0.92)
        if kind < grammar.small:
            words, scale = f"small {words}", rng.uniform(0.32, 0.45)
        elif kind < grammar.small + grammar.big:
            words, scale = f"big {words}", rng.uniform(0.96, 1.15)
        elif kind < grammar.small + grammar.big + grammar.placed:
            name = str(rng.choice(list(PLACES)))
            (x, y), place, scale = PLACES[name], f" {name}", rng.uniform(0.42, 0.55)
        centre = (x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03))
        turned = paste(canvas, picture, scale, centre, angle=rng.normal(0, 4), mirror=rng.random() < 0.5)
        return turned, article(words) + place

    def _hatted(self, rng: np.random.Generator, canvas: Image.Image, sprite: Sprite) -> tuple[Image.Image, str]:
        picture, words = self._thing(rng, sprite)
        hat = self._hats[int(rng.integers(len(self._hats)))]
        canvas = paste(canvas, picture, 0.66, (0.5, 0.6), mirror=rng.random() < 0.5)
        canvas = paste(canvas, decode(hat.image), 0.4, (0.5, 0.22))
        return canvas, f"{article(words)} wearing {article(hat.name)}"

    def _two(self, rng: np.random.Generator, canvas: Image.Image, sprite: Sprite) -> tuple[Image.Image, str]:
        things = [self._thing(rng, one) for one in (sprite, self._draw(rng))]
        relation = str(rng.choice(list(RELATIONS), p=list(RELATIONS.values())))
        centres = ((0.5, 0.26), (0.5, 0.74)) if relation == "above" else ((0.26, 0.52), (0.74, 0.52))
        scale = rng.uniform(0.42, 0.5)
        for (picture, _), centre in zip(things, centres):
            canvas = paste(canvas, picture, scale, centre, mirror=rng.random() < 0.5)
        (_, first), (_, second) = things
        return canvas, f"{article(first)} {relation} {article(second)}"

    def _thing(self, rng: np.random.Generator, sprite: Sprite) -> tuple[Image.Image, str]:
        """A drawing, perhaps in another colour, and its words without article."""
        grammar, picture = self.grammar, decode(sprite.image)
        style, kind = rng.random() < grammar.say_style, rng.random()
        word = sprite.name if kind < grammar.say_name else sprite.noun
        if kind >= 1 - grammar.say_above and sprite.above != "object":
            word = sprite.above
        colour, is_new = sprite.main_colour[0] if sprite.main_colour and sprite.main_colour[1] >= 0.5 else None, False
        if rng.random() < grammar.recolour:
            target = str(rng.choice(list(HUES)))
            if turned := recolour(picture, sprite.main_colour, target):
                picture, colour, is_new = turned, target, True
        says_colour = colour is not None and (is_new or rng.random() < grammar.say_colour)
        if says_colour and _names_colour(word):  # a red apple that was turned blue is a blue apple
            word = sprite.noun
        says_colour = says_colour and not _names_colour(word)
        return picture, " ".join([sprite.style] * style + [str(colour)] * says_colour + [word])


def _names_colour(words: str) -> bool:
    return any(word in BACKGROUNDS for word in words.split())


def article(words: str) -> str:
    """With a or an, where the thing can be counted and is one."""
    last = words.split(" with ")[0].split(" of ")[0].split()[-1]
    is_plural = last.endswith("s") and not last.endswith("ss") and last not in _SINGULAR
    return words if is_plural or last in _UNCOUNTED else scenes.with_article(words)


def paste(
    canvas: Image.Image,
    sprite: Image.Image,
    scale: float,
    centre: tuple[float, float],
    *,
    angle: float = 0.0,
    mirror: bool = False,
) -> Image.Image:
    """A sprite before a canvas; ``scale`` and ``centre`` are fractions of the canvas' side."""
    if mirror:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = max(8, int(canvas.width * scale))
    sprite = sprite.resize((side, side), Image.Resampling.BICUBIC)
    if angle:
        sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    left = int(centre[0] * canvas.width - sprite.width / 2)
    top = int(centre[1] * canvas.height - sprite.height / 2)
    canvas = canvas.copy()
    canvas.paste(sprite, (left, top), sprite)
    return canvas
