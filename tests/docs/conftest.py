# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import sys

from tests.docs.texts import ROOT

sys.path.insert(0, str(ROOT / "docs" / "site"))  # where mkdocs finds what its hooks import
