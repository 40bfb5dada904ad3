from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vesselflow.models.ema import Ema

torch.set_num_threads(1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def disturb(net: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*net.parameters(), *net.buffers()):
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=g))
            else:
                value.add_(1)


def equal(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first) and len(first) == len(
        second
    )


def test_decay_by_hand():
    # d = min(0.5, 1/10, 2/11...): 0.1 * 0 + 0.9 * 1 = 0.9; then d = 2/11 = 0.1818:
    # 0.1818 * 0.9 + 0.8182 * 2 = 1.8. A cap of 0.15 instead: 0.15 * 0.9 + 0.85 * 2 = 1.835.
    for cap, expected in ((0.5, 1.8), (0.15, 1.835)):
        net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(net.weight)
        ema = Ema(net, cap)
        for value in (1.0, 2.0):
            nn.init.constant_(net.weight, value)
            ema.update(net)
        with ema.applied(net):
            assert net.weight.item() == pytest.approx(expected, abs=1e-6)
        assert net.weight.item() == 2.0


def test_short_training_forgets_its_initial_weights():
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(net.weight)
    ema = Ema(net, 0.999)
    nn.init.zeros_(net.weight)
    for _ in range(434):
        ema.update(net)
    ema.copy_to(net)
    # The product of (1 + n) / (10 + n) is about 9! / 434 ** 9; plain 0.999 would keep 0.65.
    assert 0 < net.weight.item() < 1e-15


def test_buffers_are_averaged_and_counters_copied():
    net = model()
    ema = Ema(net, 0.9)
    before = net[1].running_mean.clone()
    disturb(net, 1)
    ema.update(net)
    now = net[1].running_mean.clone()
    with ema.applied(net):
        assert torch.allclose(net[1].running_mean, 0.1 * before + 0.9 * now)
        assert int(net[1].num_batches_tracked) == 1


def test_applied_gives_the_weights_back_bit_for_bit():
    net = model()
    ema = Ema(net, 0.9)
    disturb(net, 1)
    ema.update(net)
    disturb(net, 2)
    before = copy.deepcopy(net.state_dict())
    with ema.applied(net):
        assert not equal(net.state_dict(), before)
    assert equal(net.state_dict(), before)
    with pytest.raises(RuntimeError, match="inside"), ema.applied(net):
        raise RuntimeError("inside")
    assert equal(net.state_dict(), before)


def test_resume_is_exact():
    net = model()
    whole = Ema(net, 0.999)
    for seed in range(3):
        disturb(net, seed)
        whole.update(net)
    state, checkpoint = copy.deepcopy(whole.state_dict()), copy.deepcopy(net.state_dict())
    resumed_net = model()
    resumed_net.load_state_dict(checkpoint)
    resumed = Ema(resumed_net, 0.999)
    resumed.load_state_dict(state)
    for seed in range(3, 6):
        for one, ema in ((net, whole), (resumed_net, resumed)):
            disturb(one, seed)
            ema.update(one)
    assert whole.state_dict()["updates"] == resumed.state_dict()["updates"] == 6
    assert equal(whole.state_dict()["average"], resumed.state_dict()["average"])


def test_state_is_a_copy():
    net = model()
    ema = Ema(net, 0.9)
    state = ema.state_dict()["average"]
    before = {name: value.clone() for name, value in state.items()}
    disturb(net, 1)
    ema.update(net)
    assert equal(state, before)


def test_bad_decay_and_foreign_state():
    with pytest.raises(ValueError, match="got 1"):
        Ema(model(), 1.0)
    with pytest.raises(ValueError, match="another model"):
        Ema(model(), 0.9).load_state_dict(Ema(nn.Linear(2, 2), 0.9).state_dict())
