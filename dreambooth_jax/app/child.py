# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``python -m dreambooth_jax.app.child FILE WORD ...``: a command line, whose exit code is written into a file."""

import sys
from pathlib import Path

from dreambooth_jax.app.endings import code_of
from dreambooth_jax.cli import main

if __name__ == "__main__":
    code = code_of(lambda: main(sys.argv[2:]))
    Path(sys.argv[1]).write_text(f"{code}\n")
    sys.exit(code)
