"""Public suffixes: the domains below which anybody can have a name, such as "com", "co.uk" and "github.io".

A cookie for one of them would go to everybody's servers. Only the list at publicsuffix.org knows them. It comes with
the package `publicsuffixlist`, which needs no network, and is released anew whenever the list changes: a new version of
it is all that is needed to be up to date. Reading it takes some 40 ms and 1.4 MB, so it is read when the first cookie
comes that is for more than one host; most programs never meet one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


def is_public_suffix(domain: str) -> bool:
    """True if nobody owns all that is below `domain`, a host in canonical form. A single label that is not in the list
    (`localhost`, names of a local network) is taken for a suffix."""
    # What is no name at all (an empty label) has no owner either.
    return not _list().is_private(domain)


@lru_cache(maxsize=1)
def _list() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
