# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The page: photos in, a personalised model out, in a browser.

Whatever takes long is a command line of the package in a process of its own, which outlives the page: the page writes
it, waits for its turn, and shows what it writes into its folder. So nothing here trains or draws.
"""
