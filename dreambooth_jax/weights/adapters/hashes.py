# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The hashes that tools know adapters by, as sd-scripts computes them.

They are those of the file with no other metadata than sd-scripts' own (``ss_...``), saved by the safetensors library:
SHA-256 of all bytes after the header, and the first eight digits of that of 64 KiB from the first megabyte on.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from dreambooth_jax.weights.files import Leaf, header_of

_BEGIN, _LENGTH = 0x100000, 0x10000


def sshs_hashes(leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> dict[str, str]:
    """``sshs_model_hash``, ``sshs_legacy_hash`` and ``modelspec.hash_sha256`` of what is to be written.

    Args:
        leaves: in the order of the safetensors library.
        metadata: all of the file; of it the texts that begin with ss_ count.
    """
    own = {name: text for name, text in metadata.items() if name.startswith("ss_")}
    at = 8 + len(_header(leaves, own))
    whole, part = hashlib.sha256(), hashlib.sha256()
    if at > _BEGIN:
        part.update(_header(leaves, own)[_BEGIN - 8 : _BEGIN - 8 + _LENGTH])
    for leaf in leaves.values():
        data = np.ascontiguousarray(leaf.load()).reshape(-1).view(np.uint8).data
        whole.update(data)
        part.update(data[max(0, _BEGIN - at) : max(0, _BEGIN + _LENGTH - at)])
        at += len(data)
    return {
        "sshs_model_hash": whole.hexdigest(),
        "sshs_legacy_hash": part.hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole.hexdigest()}",
    }


def _header(leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> bytes:
    text = json.dumps(header_of(leaves, metadata), separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)
