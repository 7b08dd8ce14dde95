#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How fast is everything, beside PyTorch diffusers on the same work? Taken in turn, in one run.

    python scripts/benchmark.py                                                   # CPU: size mini
    python scripts/benchmark.py --size sd15 --batch 1,4,8 --peers ours,eager,compile --folder /tmp/sd15    # GPU, 512²
    python scripts/benchmark.py --size sd15 --work load,whole --folder /tmp/sd15
    python scripts/benchmark.py --peers ours                                      # needs no torch

step, text-step  an optimizer step of the UNet (and text encoder) on batch + batch examples: AdamW, clip
lora-step        the same of small matrices beside the transformers' layers, next to PEFT's and our step of all of it
members          lora-steps of 8 members by one program, next to as many of one that is alone
subjects         photos of 8 subjects to a LoRA each by one process, next to a process for each; nothing compiled before
ddim, dpmpp_2m   50 guided steps of batch pictures, both halves in one call, without text encoder and decoder
class-images     prompts to pictures        load   folder to device        whole   photos to a saved model

All have the same weights, and before steps are timed, the same loss. Seconds of tracing and of XLA's compiler stand
apart, and so does the first call, with these and with all that is made once; of whole it is a run without any compiled
program, and the median one that finds them. The ratio is ours / peer, GB the peak of the device or process, else what
the compiler reserves. MFU is against a measured matrix product. On a GPU both compute in bfloat16. Peers: ours, eager,
compile (torch.compile).
"""

import sys

from benchmark.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
