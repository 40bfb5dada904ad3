"""The bench of augmentation: what takes part, and its sums."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from vesselflow.augment import AUGMENTATIONS
from vesselflow.bench import augment as bench
from vesselflow.bench import augment_peers
from vesselflow.cli.main import main


def test_every_part_of_images_takes_part_and_changes_the_batch(monkeypatch) -> None:
    monkeypatch.setattr(augment_peers, "installed", list)
    given = bench.example(2, 64)
    peers = bench.peers_of(given)
    assert set(peers) == {*AUGMENTATIONS.names(), bench.OURS, bench.KORNIA} - {"zflip"}
    before = [each.clone() for each in given]
    for name, peer in peers.items():
        if isinstance(peer, bench.InPlace):
            peer.refill()
        image = peer(1)[0]
        assert image.shape == given[0].shape, name
        assert not torch.equal(image, given[0]), name
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize(("ours", "met"), [(4.0, True), (6.0, False)])
def test_the_chain_is_held_to_half_of_the_peer(ours: float, met: bool) -> None:
    result = bench.summarise(
        {"blur": [1.0, 3.0], bench.OURS: [ours, ours], bench.KORNIA: [10.0, 10.0]}
    )
    assert result["peers"]["blur"]["median"] == 2.0
    assert result["ratios"]["chain / chain, kornia"]["median"] == ours / 10
    assert result["targets"][0]["met"] is met


@pytest.mark.parametrize("library", augment_peers.PEERS)
def test_a_library_augments_every_image_of_the_batch(library: str) -> None:
    pytest.importorskip(library.lower())
    given = bench.example(2, 64)
    before = [each.clone() for each in given]
    peers = augment_peers.peers_of(library, given, bench.OURS)
    assert bench.OURS in peers
    assert set(peers) <= {*AUGMENTATIONS.names(), bench.OURS}
    for name, peer in peers.items():
        away = []
        for found in (peer(1), peer(2)):
            assert len(found) == 2
            for one, image in zip(found, given[0], strict=True):
                seen = torch.as_tensor(one["image"]).float()
                seen = seen.movedim(-1, 0) / 255 if len(seen) != 3 else seen
                assert seen.shape == image.shape, name
                away.append(float((seen - image).abs().max()))
        assert max(away) > 0.01, name
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), name


def test_parts_are_held_to_each_library_and_the_chain_to_the_fastest() -> None:
    result = bench.summarise(
        {
            "gamma": [2.0],
            "gamma, albumentations": [1.0],
            "affine": [9.0],
            "affine, albumentations": [1.0],
            bench.OURS: [4.0],
            bench.KORNIA: [40.0],
            f"{bench.OURS}, albumentations": [5.0],
        }
    )
    met = {each["what"]: (each["value"], each["met"]) for each in result["targets"]}
    assert met == {
        "chain / fastest peer": (0.8, False),
        "gamma / gamma, albumentations": (2.0, False),
    }
    assert result["tables"][0]["rows"][0] == ["gamma", "2", "", "1", ""]
    (note,) = result["notes"]
    assert note.startswith("MONAI is not installed and was left out")
    with Image.open(io.BytesIO(bench.figure(result))) as drawn:
        assert drawn.width > 900


def test_a_bench_without_a_figure_takes_no_file_for_one(capsys) -> None:
    assert main(["bench", "losses", "--png", "x.png"]) == 2
    said = capsys.readouterr().err
    assert said == "vesselflow: --png: this bench has no figure; allowed: augment\n"
