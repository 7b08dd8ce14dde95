# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What DreamBooth does to the embedded model, measured: the judge, the subjects, the conditions, the report."""
