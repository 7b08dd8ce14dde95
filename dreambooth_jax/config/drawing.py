# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How pictures are drawn from pictures: what the verb ``sample`` and the pipeline can be told beyond sampling.

Class images and sample grids are drawn from prompts alone, so none of this is a key of ``prior`` or ``samples``.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dreambooth_jax.config.sampling import SamplingConfig
from dreambooth_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class DrawingConfig(SamplingConfig):
    """All that decides a picture, apart from model, prompt, seed and given pictures."""

    strength: float = setting(0.75, above=0, at_most=1)
    """How much of the given image changes: 1 leaves nothing of it, small values only details."""
    fixed_steps: bool = setting(False)
    """Run as many steps as asked for, whatever the strength; otherwise only its share of them."""

    @classmethod
    def of(cls, sampling: SamplingConfig, **values: Any) -> "DrawingConfig":
        """Settings of sampling, those of drawing that they hold, and some more."""
        held = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
        own = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in held.items() if name in own} | values)

    def metadata(self, *, with_image: bool) -> dict[str, Any]:
        """What pictures say of how they were made: all of sampling, and of the rest what counts.

        Args:
            with_image: whether one was given to start from.
        """
        own = dataclasses.fields(self)[len(dataclasses.fields(SamplingConfig)) :]
        told = {field.name for field in own if getattr(self, field.name) != field.default}
        told |= {"strength"} if with_image else set()
        values = dataclasses.asdict(self)
        return {name: values[name] for name in values if name in told or name not in {field.name for field in own}}
