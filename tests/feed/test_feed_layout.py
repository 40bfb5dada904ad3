"""Records: where the arrays of a sample lie, and that reading and writing them are one memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.layout import SampleLayout

DTYPES = ("uint8", "uint16", "float16", "float32")
layouts = st.builds(
    SampleLayout,
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple),
    channels=st.integers(1, 4),
    targets=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    has_fov=st.booleans(),
)


@settings(deadline=None)
@given(layouts, st.integers(0, 3))
def test_arrays_are_the_records_memory_and_nothing_overlaps(
    layout: SampleLayout, count: int
) -> None:
    records = layout.empty(count)
    arrays = layout.arrays(records)
    assert arrays.image.shape == (count, layout.channels, *layout.shape)
    assert arrays.target.shape == (count, layout.targets, *layout.shape)
    assert arrays.fov.shape == (count, 1, *layout.shape)
    assert arrays.image.dtype == layout.dtype
    held = arrays if layout.has_fov else arrays[:2]
    for number, array in enumerate(held, start=1):
        array[...] = number
    for number, array in enumerate(layout.arrays(records)[: len(held)], start=1):
        assert (array == number).all()
    if not layout.has_fov:
        assert (arrays.fov == 1).all()
        assert not arrays.fov.flags.writeable
    # What is not an array is padding, less than one number of the image.
    used = sum(array[0].nbytes for array in held) if count else layout.nbytes
    assert 0 <= layout.nbytes - used < np.dtype(layout.dtype).itemsize


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_a_batch_of_records_becomes_a_tensor_without_a_copy(dtype: str) -> None:
    layout = SampleLayout((3, 5, 7), channels=1, dtype=dtype)
    records = layout.empty(4)
    image = torch.from_numpy(layout.arrays(records).image)
    image[2, 0, 1, 2, 3] = 9
    assert layout.arrays(records).image[2, 0, 1, 2, 3] == 9


def test_records_of_8_bits_are_planes() -> None:
    layout = SampleLayout((4, 6), channels=3)
    assert layout.nbytes == 5 * 4 * 6
    record = np.arange(layout.nbytes, dtype=np.uint8)
    image, target, fov = layout.arrays(record)
    np.testing.assert_array_equal(np.concatenate([image, target, fov]), record.reshape(5, 4, 6))
