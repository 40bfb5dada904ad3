"""Sums over micro-batches: the same bits however the micro-batches are shared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.feed.order import share
from vesselflow.training.reduction import TreeSum, node_spans


def _sum(values: np.ndarray, workers: int) -> np.float32:
    whole: TreeSum[np.float32] = TreeSum(lambda a, b: a + b)
    for rank in range(workers):
        part = share(len(values), workers, rank)
        own: TreeSum[np.float32] = TreeSum(lambda a, b: a + b)
        for index in part:
            own.push(index, 1, values[index])
        spans = node_spans(part.start, part.stop)
        assert [(node.start, node.size) for node in own.nodes] == spans
        for node in own.nodes:
            whole.push(node.start, node.size, node.value)
    return whole.total()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 8), st.data()
)
def test_sum_has_the_same_bits_for_any_number_of_workers(values, workers, data):
    numbers = np.array(values, dtype=np.float32)
    workers = min(workers, len(values))
    assert _sum(numbers, workers).tobytes() == _sum(numbers, 1).tobytes()


def test_order_of_additions_is_the_binary_tree():
    # Seven leaves: ((01)(23)) + ((45) + 6), the rest joined from the right.
    tree: TreeSum[str] = TreeSum(lambda a, b: f"({a}{b})")
    for index in range(7):
        tree.push(index, 1, str(index))
    assert tree.total() == "(((01)(23))((45)6))"


@given(st.integers(0, 60), st.integers(1, 60))
def test_spans_cover_the_share_with_aligned_blocks(start, length):
    spans = node_spans(start, start + length)
    covered = [index for first, size in spans for index in range(first, first + size)]
    assert covered == list(range(start, start + length))
    assert all(first % size == 0 and size & (size - 1) == 0 for first, size in spans)


def test_an_empty_sum_is_an_error():
    with pytest.raises(ValueError, match="no micro-batches"):
        TreeSum(lambda a, b: a + b).total()
