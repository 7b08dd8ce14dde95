# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax VERB ...``: parse, call, print. The verbs are in ``cli/verbs.py``.

Exit codes: 0 done (or stopped by SIGTERM, and saved), 2 wrong input (one line), 130 after Ctrl-C, 1 a failure of ours
(a traceback).
"""

import os
import sys
from collections.abc import Sequence

from dreambooth_jax.cli.interrupt import CtrlC


def run(arguments: Sequence[str]) -> None:
    """Parse and do.

    Raises:
        InputError: for wrong input.
    """
    from dreambooth_jax._version import __version__
    from dreambooth_jax.cli import pages
    from dreambooth_jax.cli.parsing import find_verb, read_call
    from dreambooth_jax.cli.verbs import VERBS
    from dreambooth_jax.cli.words import split

    if arguments and arguments[0] in ("-h", "--help", "--help-all"):
        print(pages.overview(VERBS.values()))
    elif arguments and arguments[0] == "--version":
        print(f"dreambooth-jax {__version__}")
    else:
        verb = find_verb(arguments)
        flags = split(arguments[1:]).flags
        if flags:
            print(pages.page(verb, every_key="--help-all" in flags))
        else:
            verb.run(read_call(verb, arguments[1:]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    try:
        with CtrlC() as ctrl_c:  # before anything is imported that takes time
            code = _code_of(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
    except Exception:
        if not ctrl_c.pressed:  # libraries may turn the interrupt into an error of their own
            raise
    return 130 if ctrl_c.pressed else code


def _code_of(arguments: Sequence[str]) -> int:
    """Do it; wrong input becomes one line. Returns the exit code."""
    from dreambooth_jax.cli.messages import plain_messages
    from dreambooth_jax.errors import InputError
    from dreambooth_jax.platforms import leave_out_absent

    plain_messages()
    leave_out_absent()
    # jax takes three quarters of a GPU's memory unless told; a run has nobody to share it with
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    try:
        run(arguments)
        print(end="", flush=True)  # also where there is no stdout
    except InputError as error:
        print(f"dreambooth-jax: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read what is printed has seen enough
        _print_no_more()
    except OSError as error:  # a full disk, a folder that may not be written: the place is wrong, not the program
        print(f"dreambooth-jax: {error.strerror or error}: {error.filename or 'while writing'}", file=sys.stderr)
        return 2
    return 0


def _print_no_more() -> None:
    """Python flushes both streams when it ends, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
