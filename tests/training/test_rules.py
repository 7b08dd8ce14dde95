# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rules by patterns: what they say, and that a leaf is trained as it would be alone with those settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.training.optimizer import adamw, learning_rate_schedule
from dreambooth_jax.training.rules import Rule, Treatment, by_treatment, check_used, rates_told, treatment_of
from dreambooth_jax.training.state import init_state

BASE = Treatment(1e-3, 0.1, "constant", 0)
TREE = {"a": {"lora_down": (4, 3), "lora_up": (3, 5)}, "b": {"lora_down": (4, 3), "lora_up": (3, 2), "bias": (2,)}}


def values(seed):
    r = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(r.normal(size=shape), jnp.float32), TREE, is_leaf=lambda x: isinstance(x, tuple)
    )


def make(treatment):
    schedule = learning_rate_schedule(
        treatment.schedule, peak=treatment.learning_rate, steps=20, warmup_steps=treatment.warmup_steps
    )
    return adamw(schedule, group="unet", weight_decay=treatment.weight_decay, no_decay=[".*/bias"])


def trained(optimizer, steps=5):
    params = values(0)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(values(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_factors_multiply_and_of_all_else_the_first_counts():
    rules = [
        Rule.parse("unet/.* rate=0.5 weight_decay=0"),
        Rule.parse(".*/lora_up rate=16"),
        Rule.parse(".*lora_up weight_decay=0.3 learning_rate=1e-2 schedule=cosine warmup_steps=3"),
    ]
    assert treatment_of("unet/a/lora_down", rules, BASE) == Treatment(5e-4, 0.0, "constant", 0)
    assert treatment_of("unet/a/lora_up", rules, BASE) == Treatment(0.08, 0.0, "cosine", 3)
    assert treatment_of("text_encoder/a/lora_down", rules, BASE) == BASE
    assert treatment_of("other/unet/a", rules, BASE) == BASE  # whole names


def test_each_rate_is_told_by_the_rules_that_say_it():
    told = rates_told("unet", values(0), [Rule.parse(".*/lora_up rate=16"), Rule.parse("unet/b/.* rate=0.5")], BASE)
    assert {label: treatment.learning_rate for label, treatment in told.items()} == pytest.approx(
        {"": 1e-3, ".*/lora_up": 16e-3, "unet/b/.*": 5e-4, ".*/lora_up unet/b/.*": 8e-3}
    )
    assert set(rates_told("unet", values(0), [Rule.parse(".*/bias weight_decay=0")], BASE)) == {""}
    (treatment,) = rates_told("unet", values(0), [Rule.parse("unet/.* learning_rate=3e-5")], BASE).values()
    assert treatment.learning_rate == 3e-5


def test_a_leaf_is_trained_as_it_would_be_with_its_settings_for_all():
    rules = [Rule.parse(".*/lora_up rate=16"), Rule.parse("unet/b/.* weight_decay=0.5 schedule=linear warmup_steps=2")]
    found = trained(by_treatment("unet", values(0), rules=rules, base=BASE, make=make))
    for layer, tensors in TREE.items():
        for name in tensors:
            treatment = treatment_of(f"unet/{layer}/{name}", rules, BASE)
            np.testing.assert_allclose(found[layer][name], trained(make(treatment))[layer][name], rtol=1e-6)


def test_a_factor_is_exactly_one_of_the_learning_rate():
    base = BASE._replace(weight_decay=0.0)
    found = trained(by_treatment("unet", values(0), rules=[Rule.parse(".*/lora_up rate=16")], base=base, make=make), 1)
    plain, start = trained(make(base), 1), values(0)
    for layer in TREE:
        moved, once = (np.asarray(one[layer]["lora_up"] - start[layer]["lora_up"]) for one in (found, plain))
        np.testing.assert_allclose(moved, 16 * once, rtol=1e-3)
        np.testing.assert_array_equal(found[layer]["lora_down"], plain[layer]["lora_down"])


def test_without_rules_the_state_is_that_of_one_optimizer():
    """So that checkpoints of before are resumed."""
    plain, ruled = make(BASE), by_treatment("unet", values(0), rules=[], base=BASE, make=make)
    structures = [jax.tree.structure(jax.eval_shape(one.init, values(0))) for one in (plain, ruled)]
    assert structures[0] == structures[1]


def test_the_state_of_several_optimizers_is_initialised():
    optimizer = by_treatment("unet", values(0), rules=[Rule.parse(".*/lora_up rate=2")], base=BASE, make=make)
    state = init_state({"unet": values(0)}, {"unet": optimizer}, with_ema=False)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in jax.tree.leaves(values(0)))


def test_patterns_that_match_nothing_are_all_named():
    rules = [Rule.parse(text) for text in ("unet/a/.* rate=2", "vae/.* rate=2", ".*/lora_upp rate=3")]
    with pytest.raises(InputError, match=r"optimizer.rules: vae/\.\*; \.\*/lora_upp match nothing that is trained"):
        check_used(rules, {"unet": values(0)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unet/.*", "says nothing"),
        ("", "says nothing"),
        ("unet/( rate=2", "is no regular expression"),
        ("unet/.* speed=2", "'speed' is none of rate, learning_rate, weight_decay, schedule, warmup_steps"),
        ("unet/.* rate=2 rate=3", "'rate' stands there twice"),
        ("unet/.* rate=fast", "rate is 'fast', but must be a number of at least 0"),
        ("unet/.* rate=nan", "rate is 'nan', but must be a number of at least 0"),
        ("unet/.* warmup_steps=1.5", "warmup_steps is '1.5', but must be a whole number"),
        ("unet/.* schedule=square", "schedule is 'square', but must be one of constant, linear"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    with pytest.raises(InputError, match=message):
        Rule.parse(text)
