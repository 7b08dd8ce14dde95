# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The one exception that means "the input is wrong", as opposed to "we are"."""


class InputError(ValueError):
    """Wrong input. The message names the thing, its value and the way out, on one line where it can.

    The command line prints it without a traceback and exits with code 2.
    """
