# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a file is, what it changes, and what each tool makes of it."""

from dreambooth_jax.weights.checking.check import check_file as check_file
from dreambooth_jax.weights.checking.report import FileReport as FileReport
from dreambooth_jax.weights.checking.report import as_dict as as_dict
from dreambooth_jax.weights.checking.report import as_text as as_text
from dreambooth_jax.weights.checking.report import readers as readers
