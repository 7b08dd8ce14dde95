# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings that count only beside others: where those are missing, what was set would do nothing.

What is refused was set for this run. What is doubted may stand in a config, of which the run changes something else.
"""

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth_jax.config.setting import shown

if TYPE_CHECKING:
    from dreambooth_jax.config.schema import Config


class Idle(NamedTuple):
    """A setting without effect: its name, the setting that makes it so, its value there, and the way out."""

    name: str
    by: str
    value: Any
    way: str


REFUSED = (
    Idle("adapter.text_encoder_targets", "text_encoder.stop", 0, "text_encoder.stop=-1"),
    Idle("data.keep_tags", "data.tag_orders", 0, "data.tag_orders=8"),
    Idle("data.dropout_prompt", "data.caption_dropout", 0, "data.caption_dropout=0.1"),
    Idle("data.bucket_ratio", "data.buckets", 1, "data.buckets=5"),
    Idle("data.unmasked_weight", "data.masks", "none", "data.masks=files"),
)
DOUBTED = (
    Idle("text_encoder.learning_rate", "text_encoder.stop", 0, "text_encoder.stop=-1"),
    Idle("prior.num_images", "prior.kind", "teacher", "prior.kind=pictures"),
    Idle("prior.class_images", "prior.kind", "teacher", "prior.kind=pictures"),
)


def without_effect(config: "Config", table: tuple[Idle, ...]) -> Iterator[str]:
    """Those of a table that are set and do nothing, one line each."""
    for name, by, value, way in table:
        found = attrgetter(name)(config)
        if attrgetter(by)(config) == value and found != attrgetter(name)(type(config)()):
            yield f"{name} is {shown(found)}, but {by}={value} has no use for it: set {way}, or leave it out"
