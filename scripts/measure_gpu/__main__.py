# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``python -m measure_gpu PART [OUT]``: what ``measure_gpu.sh`` starts."""

import signal
import sys

from measure_gpu.command import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and not without ending the process that has the card
    sys.exit(main())
