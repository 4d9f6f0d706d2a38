"""Which dimensions of tensors can be seen as one."""

from __future__ import annotations

from collections.abc import Sequence


def mergeable(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbouring dimensions in groups that every tensor steps through evenly.

    Args:
        sizes: Of the dimensions; those of size 1 are in no group.
        strides: Of each tensor, along the same dimensions.
    """
    groups: list[list[int]] = []
    for dim, size in enumerate(sizes):
        if size == 1:
            continue
        if groups and all(s[groups[-1][-1]] == size * s[dim] for s in strides):
            groups[-1].append(dim)
        else:
            groups.append([dim])
    return groups
