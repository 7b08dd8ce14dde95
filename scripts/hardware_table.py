# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""docs/hardware.md: training steps of Stable Diffusion at its real size, compiled for devices that need not be there.

    python scripts/hardware_table.py compile --targets h100,a100-40    adds to docs/hardware.jsonl what is not there yet
    python scripts/hardware_table.py members                           of many subjects in one step, on an H100
    python scripts/hardware_table.py write                             makes docs/hardware.md of all

A step takes a minute to compile for a GPU and eight for a TPU, on two cores; what is done is not done again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hardware.command import main

if __name__ == "__main__":
    sys.exit(main())
