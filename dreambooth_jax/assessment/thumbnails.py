# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small copies of pictures, written into a page itself."""

from base64 import b64encode
from io import BytesIO

from PIL import Image

from dreambooth_jax.evaluation.towers import Picture

SIDE, QUALITY = 112, 82


def thumbnail(picture: Picture) -> str:
    """A ``data:`` address of a JPEG whose longer side has so many pixels; smaller pictures keep their size."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
