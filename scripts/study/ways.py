# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Ways to personalise: the experiment that compares adapters with full fine-tuning."""

from dataclasses import replace

from .conditions import FAST, PAPER, TALK, Claim, Condition, Experiment, Training, of

LORA = {
    "adapter.kind": "lora",
    "adapter.targets": "[attn-mlp-conv]",
    "optimizer.learning_rate": 1e-3,
    "train.steps": 200,
}
"""Of rank 16, convolutions too, in half the steps of full fine-tuning."""
QUICKSTART = LORA | {"train.steps": 350}
"""In as much time as full fine-tuning takes."""
TEACHER = {"prior.kind": "teacher"}
_LORA = {"adapter__kind": "lora", "optimizer__learning_rate": 2e-3, "train__steps": 200}
_WORDS = {"tokens__learning_rate": 1e-2, "tokens__vectors": 4}
_WORDS_ALONE = {"adapter__kind": "textual_inversion", "prior__weight": 0.0, "text_encoder__stop": 0}
_WORDS_FIRST = {"adapter__kind": "pivotal", "tokens__alone": 100, "tokens__stop": 100, "train__steps": 300}

WAYS = Experiment(
    title="Ways to personalise",
    conditions=tuple(
        replace(condition, sampling=FAST)
        for condition in (
            of("full"),
            of("full, half the steps", train__steps=200),
            of("LoRA, rank 16", **_LORA),
            Condition(name="LoRA, rank 16, convolutions too", training=Training(settings=LORA)),
            Condition(name="the same, 350 steps", training=Training(settings=QUICKSTART)),
            of("DoRA, rank 16", **_LORA, adapter__dora="input"),
            of("LoKr", **(_LORA | {"adapter__kind": "lokr", "optimizer__learning_rate": 1.5e-2})),
            of("LiDB", **(_LORA | {"adapter__kind": "lidb", "optimizer__learning_rate": 1e-2})),
            of("textual inversion", **_WORDS, **_WORDS_ALONE),
            of("pivotal tuning", **(_LORA | _WORDS | _WORDS_FIRST)),
        )
    ),
    claims=(
        Claim("LoRA is as true as full fine-tuning, or truer.", TALK, "fidelity", "LoRA, rank 16", "full"),
        Claim("DreamBooth is truer than textual inversion.", PAPER, "fidelity", "full", "textual inversion"),
        Claim("Textual inversion keeps the class more diverse.", PAPER, "diversity", "textual inversion", "full"),
    ),
    costs=True,
    baseline="full",
)
