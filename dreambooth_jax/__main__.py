# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``python -m dreambooth_jax`` is ``dreambooth-jax``."""

import sys

from dreambooth_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
