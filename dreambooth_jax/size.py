# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How large a picture is: arrays have height before width, people write width x height."""

import re
from typing import NamedTuple

from dreambooth_jax.errors import InputError


class Size(NamedTuple):
    """Height and width, in pixels of a picture or of its latents."""

    height: int
    width: int

    @classmethod
    def parse(cls, setting: int | str) -> "Size":
        """A square from one number, ``512``; any other size as width x height, ``"768x512"``.

        Raises:
            InputError: if it is neither, or a side is less than 1.
        """
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*[xX×]\s*([0-9]{1,9}))?\s*", str(setting))
        width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if width < 1 or height < 1:
            raise InputError(f"{setting!r} is no size: write 512 for a square, or width x height, such as 768x512")
        return cls(height, width)

    @property
    def setting(self) -> int | str:
        """The shortest that :meth:`parse` reads back: ``512``, or ``"768x512"``."""
        return self.width if self.width == self.height else f"{self.width}x{self.height}"

    @property
    def words(self) -> str:
        """Width x height, also of a square: ``512x512``."""
        return f"{self.width}x{self.height}"

    def latents(self, factor: int) -> "Size":
        """The size of latents, for an autoencoder that reduces each side by this factor."""
        return Size(self.height // factor, self.width // factor)


def shortest(setting: int | str) -> int | str:
    """The shortest way to write the same size, so that equal sizes are equal settings; what is no size stays."""
    try:
        return Size.parse(setting).setting
    except InputError:
        return setting
