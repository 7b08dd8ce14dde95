# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pages that are made of something else: functions from it to Markdown, by the place of the page."""
