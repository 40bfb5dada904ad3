"""The bench of augmentation: what takes part, and its sums."""

from __future__ import annotations

import pytest
import torch

from vesselflow.augment import AUGMENTATIONS
from vesselflow.bench import augment as bench


def test_every_part_of_images_takes_part_and_changes_the_batch() -> None:
    given = bench.example(2, 64)
    peers = bench.peers_of(given)
    assert set(peers) == {*AUGMENTATIONS.names(), bench.OURS, bench.KORNIA} - {"zflip"}
    for name, peer in peers.items():
        image = peer(1)[0]
        assert image.shape == given[0].shape, name
        assert not torch.equal(image, given[0]), name


@pytest.mark.parametrize(("ours", "met"), [(4.0, True), (6.0, False)])
def test_the_chain_is_held_to_half_of_the_peer(ours: float, met: bool) -> None:
    result = bench.summarise(
        {"blur": [1.0, 3.0], bench.OURS: [ours, ours], bench.KORNIA: [10.0, 10.0]}
    )
    assert result["peers"]["blur"]["median"] == 2.0
    assert result["ratios"]["chain / chain, kornia"]["median"] == ours / 10
    assert result["targets"][0]["met"] is met
