# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A pipeline without networks, that counts what it is asked for."""

import numpy as np

from dreambooth_jax.pipeline import Pipeline


class FakePipeline(Pipeline):
    """Pictures are noise of their seed, unless ``spoil(seed)`` says what they are instead."""

    def __init__(self, spoil=lambda seed: None):
        self.__dict__.update(spoil=spoil, calls=[], encoded=0, params={"vae": {}}, word_files={})

    def __call__(self, prompts, *, seed, sampling, **options):
        self.calls.append({"prompts": prompts, "seed": seed, "sampling": sampling} | options)
        return np.stack([self.picture(one, sampling.height, sampling.width) for one in seed])

    def picture(self, seed, height, width):
        spoilt = self.spoil(seed)
        if spoilt == "black":
            return np.zeros((height, width, 3), np.uint8)
        noise = np.random.default_rng(seed if spoilt is None else spoilt)
        return np.kron(noise.integers(0, 256, (8, 8, 3)), np.ones((height // 8, width // 8, 1))).astype(np.uint8)

    def encode_images(self, params, images):
        self.__dict__["encoded"] += len(images)
        small = images[:, ::8, ::8]
        return small, -np.abs(small)
