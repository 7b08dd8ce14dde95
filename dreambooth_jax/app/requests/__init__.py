# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody asks for on the page, as command lines in the queue. No word of a client is a place of a file."""
