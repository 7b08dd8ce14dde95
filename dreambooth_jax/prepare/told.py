# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run says of the pictures that it is taught with: kept in its checkpoints, for the files that come of it.

{"subjects": [{"photos": 5, "tags": {"sks dog": 5, "grass": 2}}], "class_images": 200}
"""

from collections.abc import Sequence
from typing import Any

from dreambooth_jax.data.captions import tag_counts
from dreambooth_jax.prepare.prepared import PreparedConcept


def told_of(concepts: Sequence[PreparedConcept]) -> dict[str, Any]:
    """Of each subject how many photos teach it, and how often they have which tag; and how many class images there are:
    those that subjects share count once. Plain JSON values."""
    classes = {(photo.name, photo.digest) for one in concepts if one.prior for photo in one.prior.photos}
    return {"subjects": [_subject(one) for one in concepts], "class_images": len(classes)}


def _subject(one: PreparedConcept) -> dict[str, Any]:
    """Photos without a caption have the subject's words for their tag."""
    words = f"{one.concept.identifier} {one.concept.class_noun}".strip()
    captions = [photo.prompt if photo.has_caption else words for some in one.instance for photo in some.photos]
    return {"photos": len(captions), "tags": tag_counts(captions)}
