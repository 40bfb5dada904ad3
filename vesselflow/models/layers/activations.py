"""Activations; those that can work in place do."""

from __future__ import annotations

from torch import nn


def relu() -> nn.Module:
    """max(x, 0)."""
    return nn.ReLU(inplace=True)


def leaky_relu() -> nn.Module:
    """X above 0, 0.01 x below (Maas et al. 2013)."""
    return nn.LeakyReLU(0.01, inplace=True)


def elu() -> nn.Module:
    """X above 0, exp(x) - 1 below (Clevert et al. 2015, https://arxiv.org/abs/1511.07289)."""
    return nn.ELU(inplace=True)


def gelu() -> nn.Module:
    """X times the normal distribution at x (Hendrycks 2016, https://arxiv.org/abs/1606.08415)."""
    return nn.GELU()


def silu() -> nn.Module:
    """X times its sigmoid, "swish" (Ramachandran 2017, https://arxiv.org/abs/1710.05941)."""
    return nn.SiLU(inplace=True)


def mish() -> nn.Module:
    """X tanh(log(1 + exp(x))) (Misra 2019, https://arxiv.org/abs/1908.08681)."""
    return nn.Mish(inplace=True)
