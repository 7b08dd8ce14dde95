#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a training step grows: with the examples, the resolution and the number of devices.

    JAX_PLATFORMS=cpu python scripts/benchmark_growth.py --out growth.json --chart docs/growth.png

Prints Markdown tables. Devices of a CPU are pretended: they share its cores, so that time with their number shows what
splitting costs and not what it gains; memory per device is what it would be. Work that is left out (--work batch) is
drawn as it was measured before, if --out names that report.
"""

import sys

from benchmark.growth_command import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
