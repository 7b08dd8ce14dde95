# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a teacher, the frozen model, is asked: at the photos of a subject, with prompts that are not the subject's.

Which prompt comes is drawn at each visit of a photo. What the frozen text encoder makes of the prompts is computed
once, before anything is trained.
"""

from dataclasses import dataclass

import numpy as np

from dreambooth_jax.adapters import TEACHER
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import Concept, concepts_of
from dreambooth_jax.data.captions import Captions
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.prompts.named import expanded


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a teacher is asked about a subject.

    Attributes:
        captions: the prompts.
        texts: what the frozen text encoder makes of them, sorted: ``teacher/condition/...``.
    """

    captions: Captions
    texts: dict[str, np.ndarray]


def lessons_of(config: Config, concept: Concept, pipe: Pipeline) -> Lessons:
    """The lessons of a subject: its class prompt, those of the settings, and other subjects' own if that is asked for.

    Args:
        config: of the run.
        concept: the subject.
        pipe: the frozen model.
    """
    prompts = lesson_prompts(config, concept)
    leaves = pipe.condition_to_learn(pipe.params, sorted(prompts)).leaves()
    texts = {f"{TEACHER}/{name}": np.asarray(leaf, np.float32) for name, leaf in leaves.items()}
    return Lessons(captions=Captions(templates=prompts), texts=texts)


def lesson_prompts(config: Config, concept: Concept) -> tuple[str, ...]:
    """All different prompts that a teacher is asked at the photos of a subject."""
    subject, prior = subject_of(concept), config.prior
    prompts = [subject.fill(template) for template in (concept.class_prompt, *expanded(prior.prompts))]
    for other in concepts_of(config) if prior.other_subjects else ():
        if other.name != concept.name:
            prompts += [subject_of(other).fill(template) for template in (other.instance_prompt, other.class_prompt)]
    return tuple(dict.fromkeys(prompts))
