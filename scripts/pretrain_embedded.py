#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pretrain the embedded model: a folder of sprites in, a finished diffusers folder out.

    python scripts/pretrain_embedded.py --config configs/embedded_pretrain.yaml \\
        --sprites SPRITES --work WORK --output OUTPUT
    python scripts/pretrain_embedded.py --config configs/embedded_pretrain_cpu.yaml --sprites ...

The first is the full setting, for one big GPU; the second what two CPU cores can do. The same command goes on
from wherever it was stopped.
"""

from embedded.pretrain import pretrain
from embedded.settings import parse

if __name__ == "__main__":
    pretrain(parse())
