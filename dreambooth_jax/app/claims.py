# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sessions and events are of whoever named them first: another who knows their names neither listens nor cancels."""

from collections import OrderedDict
from urllib.parse import parse_qs

MOST_CLAIMS = 100_000


class Claims:
    """Names, each of somebody; of the oldest nothing is known any more."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, str] = OrderedDict()

    def may(self, who: str, name: str) -> bool:
        """Is it hers? A name that nobody had is from now on."""
        owner = self._of.setdefault(name, who)
        self._of.move_to_end(name)
        if len(self._of) > MOST_CLAIMS:
            self._of.popitem(last=False)
        return owner == who


def names_in(path: str, query: bytes, body: object) -> list[str]:
    """Sessions and events that a request names.

    Args:
        path: of its address.
        query: of its address.
        body: what its JSON says.
    """
    told = body if isinstance(body, dict) else {}
    found = [told.get("session_hash"), told.get("event_id"), *parse_qs(query.decode("latin-1")).get("session_hash", ())]
    parts = path.strip("/").split("/")
    if parts[1:2] == ["heartbeat"] or parts[1:2] == ["stream"]:
        found += parts[2:3]
    elif parts[1:2] == ["call"]:
        found += parts[3:]
    return [name for name in found if isinstance(name, str) and name]
