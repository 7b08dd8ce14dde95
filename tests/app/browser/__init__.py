# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
