#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Does a model of real size fit on one machine, and is it right there? Memory and seconds of every stage.

    build    a folder in the diffusers layout: a model's own configurations, random weights
    load     load_pretrained                                     memory <= 1.3 x the size of the files
    unet     one call of our UNet, batch 2
    torch    the same call with PyTorch diffusers                max |Δ| <= 1e-5 of the output's scale
    sample   a guided picture in two steps
    train    two steps of the trainer: whole UNet, AdamW, prior preservation, rematerialisation

    python scripts/real_size.py --folder /tmp/sd15 --out report.json
    python scripts/real_size.py --folder /tmp/sdxl --out report.json --size sdxl     at 512 pixels, for 24 GB

Files are float32; Stable Diffusion XL's are bfloat16, and are loaded so. What computes has parameters in float32.

Every stage is a process of its own: its peak is its own, and all its memory is free again when it ends.
"""

import sys

from real_size.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
