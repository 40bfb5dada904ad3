"""The equal-weight mean of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vesselflow.models.swa import Swa

torch.set_num_threads(1)


def test_it_is_the_mean_of_what_it_was_given() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    swa, seen = Swa(net), []
    for _ in range(5):
        with torch.no_grad():
            for value in (*net.parameters(), *net.buffers()):
                value.copy_(torch.randn(value.shape).mul(9).to(value.dtype))
        swa.update(net)
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        mean = swa.state_dict()["average"]
        for name, value in mean.items():
            every = torch.stack([one[name] for one in seen])
            if value.is_floating_point():
                # Taken in one by one, in float32: a few units in the last place of the largest.
                torch.testing.assert_close(value, every.double().mean(0).float(), rtol=0, atol=1e-5)
            else:
                assert torch.equal(value, every[-1])
    assert swa.updates == 5


def test_the_first_weights_replace_the_initial_ones_and_a_state_goes_on() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1e30)
    swa = Swa(net)
    nn.init.constant_(net.weight, 1.0)
    swa.update(net)
    resumed = Swa(net)
    resumed.load_state_dict(swa.state_dict())
    for one in (swa, resumed):
        nn.init.constant_(net.weight, 2.0)
        one.update(net)
        with one.applied(net):
            assert net.weight.item() == 1.5
        assert net.weight.item() == 2.0
    with pytest.raises(ValueError, match="another model"):
        resumed.load_state_dict(Swa(nn.Linear(2, 2)).state_dict())
