"""Sums whose bits do not depend on the number of workers.

A step sums the gradients of its micro-batches. Floating-point addition is not associative, so a
plain all-reduce gives other bits for other numbers of workers. Here the sum has one fixed shape:
the binary tree over the micro-batch indices. A worker reduces its contiguous share to the nodes of
that tree which lie wholly inside its share, the nodes are gathered, and every worker completes the
same tree in the same order. The result is bit-equal for 1, 2 or 8 workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class TreeNode(Generic[T]):
    """The sum over the micro-batches ``start`` .. ``start + size - 1``."""

    start: int
    size: int
    value: T


def node_spans(start: int, stop: int) -> list[tuple[int, int]]:
    """Largest aligned power-of-two blocks that cover ``[start, stop)``, as (start, size)."""
    spans = []
    while start < stop:
        size = start & -start if start else 1 << (stop - start).bit_length()
        while start + size > stop:
            size //= 2
        spans.append((start, size))
        start += size
    return spans


class TreeSum(Generic[T]):
    """Adds values in ascending index order and merges aligned neighbours as soon as both are there.

    Args:
        add: How two values are added; called with the left one first.
    """

    def __init__(self, add: Callable[[T, T], T]) -> None:
        self._add = add
        self._nodes: list[TreeNode[T]] = []

    def push(self, start: int, size: int, value: T) -> None:
        """Append the node that begins where the last one ended."""
        node = TreeNode(start, size, value)
        while self._nodes:
            left = self._nodes[-1]
            if left.size != node.size or left.start % (2 * left.size):
                break
            self._nodes.pop()
            node = TreeNode(left.start, 2 * left.size, self._add(left.value, node.value))
        self._nodes.append(node)

    @property
    def nodes(self) -> list[TreeNode[T]]:
        """What is summed so far, as maximal aligned nodes from left to right."""
        return list(self._nodes)

    def total(self) -> T:
        """The sum of everything: the remaining nodes are added from the right to the left."""
        if not self._nodes:
            raise ValueError("a sum over no micro-batches is undefined")
        value = self._nodes[-1].value
        for node in reversed(self._nodes[:-1]):
            value = self._add(node.value, value)
        return value
