# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What an adapter does not train stays as it was read, to the bit, through a hundred steps and what is written then."""

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.adapters import registry
from dreambooth_jax.runs import open_model
from dreambooth_jax.trainer import run
from tests.runs import MODEL, tiny_config, weights

pytestmark = [pytest.mark.usefixtures("one_device"), pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

SETTINGS = (
    *("adapter.kind=lora", "adapter.rank=2", "adapter.targets=attn-mlp-conv", "text_encoder.stop=-1", "prior.weight=0"),
    *("optimizer.learning_rate=1e-2", "optimizer.weight_decay=0.1", "optimizer.clip_norm=0.01"),
    *("train.ema_decay=0.9", "train.batch_size=1", "train.dtype=float32", "export.format=safetensors"),
)
STRANGER = "unet/conv_norm_out/scale"


def leaves(params):
    return {name: np.array(leaf) for name, leaf in trees.flatten(params).items()}


def differing(before, after):
    """Names of leaves that are others than before, in any bit: a NaN or a zero's sign counts, too."""
    assert before.keys() <= after.keys()
    return {
        name
        for name, leaf in before.items()
        if leaf.dtype != after[name].dtype or leaf.tobytes() != after[name].tobytes()
    }


def leaking(adapter):
    """The adapter with one leaf among those that it trains which it should not."""

    def init(key, params):
        frozen, trainable = (trees.flatten(tree) for tree in adapter.init(key, params))
        trainable[STRANGER] = frozen.pop(STRANGER)
        return trees.unflatten(frozen), trees.unflatten(trainable)

    def compose(frozen, trainable):
        frozen, trainable = trees.flatten(frozen), trees.flatten(trainable)
        own = {STRANGER: trainable.pop(STRANGER)} if STRANGER in trainable else {}
        return adapter.compose(trees.unflatten(frozen | own), trees.unflatten(trainable))

    return adapter._replace(init=init, compose=compose, beside=None, members=None)


class Seen:
    """A run, with what it kept frozen on the device when it had taken all its steps."""

    def __init__(self, root, patch, steps):
        self.folder = root / "run"
        self.before = leaves(dbx.load_pretrained(MODEL).params)
        run_export = run.export

        def export(config, folder, training, state, **options):
            self.frozen = leaves(training.frozen)
            self.trained = {name: leaf.shape for name, leaf in trees.flatten(state.trainable).items()}
            self.averaged = set(trees.flatten(state.ema))
            run_export(config, folder, training, state, **options)

        patch.setattr(run, "export", export)
        dbx.train(tiny_config(root, *SETTINGS, f"train.steps={steps}", f"checkpoint.every={steps}"))
        self.written = leaves(dbx.load_pretrained(self.folder / "model").params)
        self.opened = leaves(open_model(str(self.folder)).params)

    @property
    def kernels(self):
        """Those that a product of small matrices is added to."""
        downs = [name for name in self.trained if name.endswith("/lora_down")]
        return {f"{name.rpartition('/')[0]}/kernel" for name in downs}

    def check(self):
        """All that must hold of what is frozen."""
        assert not differing(self.before, self.frozen), "kernels below the small matrices, too"
        for found in (self.written, self.opened):
            changed = differing(self.before, found)
            assert changed == self.kernels, changed ^ self.kernels
        small = {f"{name.rpartition('/')[0]}/lora_{end}" for name in self.kernels for end in ("down", "up")}
        assert set(self.trained) == self.averaged == small


@pytest.mark.slow
def test_a_hundred_steps_leave_every_frozen_leaf_as_it_was_read(tmp_path, monkeypatch):
    """LoRA of both networks, with decay, clipping and a moving average."""
    seen = Seen(tmp_path, monkeypatch, 100)
    assert {name.partition("/")[0] for name in seen.kernels} == {"unet", "text_encoder"}
    assert {name.partition("/")[0] for name in seen.before} > {"unet", "text_encoder"}
    seen.check()
    for name, leaf in weights(seen.folder, 100).items():
        assert np.abs(leaf).max() > 0, f"{name} has not learned"
    # and the check is one: a bit of any leaf is noticed, wherever it is
    for place in (seen.frozen, seen.written, seen.opened):
        for name in (*(name for name in sorted(seen.before) if name not in seen.kernels),)[::97]:
            kept, bits = place[name], place[name].copy()
            bits.view(np.uint8).reshape(-1)[0] ^= 1
            place[name] = bits
            with pytest.raises(AssertionError, match=name):
                seen.check()
            place[name] = kept


@pytest.mark.slow
def test_a_leaf_that_is_trained_besides_is_noticed(tmp_path, monkeypatch):
    """An adapter that says one leaf too many: by decay alone it would move."""
    make = registry.KINDS["lora"]
    monkeypatch.setitem(registry.KINDS, "lora", lambda *arguments: leaking(make(*arguments)))
    seen = Seen(tmp_path, monkeypatch, 2)
    assert STRANGER not in seen.frozen
    with pytest.raises(AssertionError):
        seen.check()
    assert differing(seen.before, seen.written) - seen.kernels == {STRANGER}
