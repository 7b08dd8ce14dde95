# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts as AUTOMATIC1111's web UI (A1111) reads them, as pure functions of text, steps and seeds.

wildcards -> text -> editing: the text of each step -> emphasis: words and weights -> chunks of 75 tokens
"""
