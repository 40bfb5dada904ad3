"""What mixes samples of a micro-batch: laws that hold for every way, and numbers by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.compose import compose
from vesselflow.augment.draws import Draws, Mixer
from vesselflow.augment.mixing import beta_quantile, mix, mix_fov, partners
from vesselflow.config.experiment import load_experiment
from vesselflow.errors import ShapeError, UserError
from vesselflow.losses import LOSSES
from vesselflow.losses.bce import BceArguments
from vesselflow.runs.registries import REGISTRIES

torch.set_num_threads(1)

#: What mixes images, and its arguments for that.
MIXING = {"mixup": {}, "cutmix": {}, "cutmixup": {}, "manifold_mixup": {"at": "input"}}
SIZES = [((16, 24), 1), ((16, 24), 4), ((4, 8, 12), 1), ((4, 8, 12), 2)]


def batch(samples: int, size: tuple[int, ...], factor: int = 1):
    """Image, fov, target and what counts; each sample's values tell it from the others."""
    g = torch.Generator().manual_seed(3)
    cells = tuple(n // factor for n in size)
    fov = (torch.rand(samples, 1, *size, generator=g) < 0.9).float()
    image = torch.randn(samples, 3, *size, generator=g) * fov
    target = torch.rand(samples, 2, *cells, generator=g)
    return image, fov, target, (torch.rand(samples, 1, *cells, generator=g) < 0.9).float()


def run(spec, tensors, seed: int = 11, progress: float = 0.0):
    return mixed(spec, tensors, torch.Generator().manual_seed(seed), progress)


def mixed(spec, tensors, generator, progress: float = 0.0):
    augmenter = compose(spec)
    samples, cells = len(tensors[0]), tensors[2].shape[2:]
    mixes = augmenter.mixes(samples, cells, generator=generator, progress=progress)
    return augmenter.mixed(*tensors, mixes)


def base_of(seed: int) -> int:
    return int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed)))


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_these_are_all_that_mix():
    parts = {name: AUGMENTATIONS.build({"name": name}) for name in AUGMENTATIONS.names()}
    assert [name for name, part in parts.items() if isinstance(part, Mixer)] == list(MIXING)
    mixes = [p.name for p in AUGMENTATIONS if getattr(p.arguments, "mixes", False)]
    assert mixes == list(MIXING)
    assert not compose({name: {} for name in MIXING}).grades


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize(("size", "factor"), SIZES)
def test_every_place_is_the_same_mix_of_all_four(name, size, factor):
    tensors = batch(9, size, factor)
    before = [each.clone() for each in tensors]
    image, fov, target, counted = run({name: {"p": 0.7, "alpha": 1, **MIXING[name]}}, tensors)
    assert equal(tensors, before)
    base = base_of(11)
    other = partners(Draws(base, "mixing", 9))
    chosen = Draws(base, "mixing", 9).uniform(1)[:, 0] < 0.7
    assert 0 < int(chosen.sum()) < 9
    part = AUGMENTATIONS.build({"name": name, "alpha": 1.0})
    numbers = Draws(base, name, 9).uniform(2 + len(size))
    for index in range(9):
        if not chosen[index]:
            assert equal([t[index] for t in (image, fov, target, counted)],
                         [t[index] for t in before])  # fmt: skip
            continue
        share = part.share(target.shape[2:], numbers[index]).numpy()
        fine = np.kron(share, np.ones((factor,) * len(size)))
        own, there = ([t[k].numpy() for t in before] for k in (index, other[index]))
        seen = np.where(fine == 1, own[1], np.where(fine == 0, there[1], own[1] * there[1]))
        assert np.array_equal(fov[index].numpy(), seen)
        expected = (fine * own[0] + (1 - fine) * there[0]) * seen
        assert np.abs(image[index].numpy() - expected).max() < 1e-6
        expected = share * own[2] + (1 - share) * there[2]
        assert np.abs(target[index].numpy() - expected).max() < 1e-6
        kept = np.where(share == 1, own[3], np.where(share == 0, there[3], own[3] * there[3]))
        assert np.array_equal(counted[index].numpy(), kept)


@pytest.mark.parametrize("name", MIXING)
def test_chance_is_keyed_and_one_number_is_drawn(name):
    tensors, spec = batch(6, (16, 24)), {name: {"p": 0.6, **MIXING[name]}}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(spec, tensors)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(run(spec, tensors), first)
    assert not equal(run(spec, tensors, seed=12), first)
    g, reference = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    mixed(spec, tensors, g)
    torch.randint(2**62, (1,), generator=reference)
    assert torch.equal(g.get_state(), reference.get_state())


@pytest.mark.parametrize("name", MIXING)
def test_nothing_is_mixed_at_p_zero_and_nothing_before(name):
    tensors = batch(6, (16, 24))
    assert equal(run({name: {"p": 0, **MIXING[name]}}, tensors), tensors)
    rising = {name: {"p": {"schedule": "linear", "from": 0, "to": 1}, **MIXING[name]}}
    assert equal(run(rising, tensors), tensors)
    assert equal(run(rising, tensors, progress=1.0), run({name: {"p": 1, **MIXING[name]}}, tensors))
    image, fov, target, _ = tensors
    generator = torch.Generator().manual_seed(0)
    called = compose({name: {"p": 1, **MIXING[name]}})(image, target, fov, generator=generator)
    assert equal(called, (image, target, fov))


def test_a_share_of_one_is_no_mixing_bit_for_bit(monkeypatch):
    monkeypatch.setattr("vesselflow.augment.mixing.beta_quantile", lambda u, alpha: 1.0)
    tensors = batch(4, (8, 8))
    # What is no number in a partner reaches nobody.
    tensors[0][0, 0, 0, 0] = torch.nan
    found = run({name: {"p": 1, **MIXING[name]} for name in MIXING}, tensors)
    assert all(
        torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0))
        for a, b in zip(found, tensors, strict=True)
    )


def test_a_share_of_zero_is_the_partner(monkeypatch):
    monkeypatch.setattr("vesselflow.augment.mixing.beta_quantile", lambda u, alpha: 0.0)
    tensors = batch(4, (8, 8))
    other = partners(Draws(base_of(11), "mixing", 4))
    assert equal(run({"mixup": {"p": 1}}, tensors), [each[other] for each in tensors])


def test_nan_stays_where_the_share_leaves_it():
    share = torch.tensor([1.0, 0.0, 0.5])
    nan = torch.full((1, 3), torch.nan)
    assert mix(torch.ones(1, 3), nan, share)[0].isnan().tolist() == [False, True, True]
    assert mix(nan, torch.ones(1, 3), share)[0].isnan().tolist() == [True, False, True]
    ones = torch.ones(1, 3)
    assert mix_fov(ones, 0 * ones, share).tolist() == [[1, 0, 0]]
    assert mix_fov(0 * ones, ones, share).tolist() == [[0, 1, 0]]


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(2, 12), base=st.integers(0, 10**6))
def test_partners_are_a_round_through_all(samples, base):
    other = partners(Draws(base, "mixing", samples))
    seen, place = [], 0
    for _ in range(samples):
        seen.append(place)
        place = other[place]
    assert sorted(seen) == list(range(samples))
    assert place == 0


@settings(deadline=None, max_examples=20)
@given(u=st.floats(0.01, 0.99), alpha=st.floats(0.2, 5))
def test_shares_are_quantiles_of_the_beta_distribution(u, alpha):
    share = beta_quantile(u, alpha)
    # The density integrated by quadrature, its pole at 0 taken as a weight.
    side = min(share, 1 - share)
    mass = integrate.quad(
        lambda x: (1 - x) ** (alpha - 1), 0, side, weight="alg", wvar=(alpha - 1, 0)
    )[0]
    whole = (
        2
        * integrate.quad(
            lambda x: (1 - x) ** (alpha - 1), 0, 0.5, weight="alg", wvar=(alpha - 1, 0)
        )[0]
    )
    expected = u if share <= 0.5 else 1 - u
    assert mass / whole == pytest.approx(expected, abs=1e-6)


def test_of_several_ways_one_is_drawn_by_weight():
    tensors = batch(400, (4, 4))
    ways = {"mixup": {"p": 0.6, "alpha": 1}, "cutmix": {"p": 0.9, "alpha": 1}}
    base = base_of(11)
    u = Draws(base, "mixing", 400).uniform(1)[:, 0]
    both = run(ways, tensors)
    # Of 1.5 in all, so every sample is mixed in one of the two: 0.4 and 0.6.
    first = u < 0.4
    assert float(first.float().mean()) == pytest.approx(0.4, abs=0.1)
    for name, mine in (("mixup", first), ("cutmix", ~first)):
        alone = run({name: {"p": 1, "alpha": 1}}, tensors)
        assert equal([each[mine] for each in both], [each[mine] for each in alone])
    few = run({"mixup": {"p": 0.2, "alpha": 1}, "cutmix": {"p": 0.3, "alpha": 1}}, tensors)
    assert equal([each[u >= 0.5] for each in few], [each[u >= 0.5] for each in tensors])


@pytest.mark.parametrize("name", MIXING)
def test_a_factor_is_one_on_the_probability_of_its_sample(name):
    factors = [0.0, 1.0, 2.0, 50.0] * 5

    def drawn(p: float, each=None, beside: float = 0.0):
        ways = {name: {"p": p, **MIXING[name]}}
        ways |= {other: {"p": beside} for other in MIXING if other != name and beside}
        found = compose(ways).mixes(
            20, (4, 4), generator=torch.Generator().manual_seed(11), factors=each
        )
        return [mix and (mix.name, mix.other, mix.share.tolist()) for mix in found]

    for beside in (0.0, 0.05):
        found = drawn(0.3, factors, beside)
        for index, factor in enumerate(factors):
            # What is too likely in sum is divided by the sum, for each sample by itself.
            most = min(factor, 1 / 0.3)
            assert found[index] == drawn(0.3 * most, None, beside * most)[index]
        assert found[::4] == [None] * 5
        assert None not in found[3::4]
        assert None in found[1::4]


def test_factors_keep_all_their_digits():
    u = Draws(base_of(11), "mixing", 12).uniform(1)[:, 0]
    for each, chosen in ((u, False), (u.nextafter(torch.ones_like(u)), True)):
        generator = torch.Generator().manual_seed(11)
        augmenter = compose({"mixup": {"p": 1, "alpha": 5}})
        found = augmenter.mixes(12, (4, 4), generator=generator, factors=each.tolist())
        assert [mix is not None for mix in found] == [chosen] * 12


def test_a_box_has_its_share_of_the_frame():
    part = AUGMENTATIONS.build({"name": "cutmix"})
    inner = torch.tensor([0.75, 0.0, 0.5, 0.5], dtype=torch.float64)
    # alpha 1: the share is u itself; a quarter of 40 x 80 is a box of half its sides.
    share = part.share((40, 80), inner)
    assert (share == 0).nonzero().amin(0).tolist() == [10, 20]
    assert (share == 0).nonzero().amax(0).tolist() == [29, 59]
    assert int((share == 0).sum()) == 20 * 40
    cube = part.share((16, 16, 16), torch.tensor([0.875, 0, 0.5, 0.5, 0.5]).double())
    assert int((cube == 0).sum()) == 8**3
    # In a corner a quarter of it is left.
    corner = part.share((40, 80), torch.tensor([0.75, 0.0, 0.0, 0.0]).double())
    assert int((corner == 0).sum()) == 10 * 20
    mixed = AUGMENTATIONS.build({"name": "cutmixup"}).share(
        (40, 80), torch.tensor([0.75, 0.3, 0.5, 0.5]).double()
    )
    assert torch.equal(mixed == 1, share == 1)
    assert mixed[share == 0].unique().tolist() == pytest.approx([0.3])


def test_golden_values_are_those_of_numpy():
    golden = yaml.safe_load(
        (Path(__file__).parents[1] / "contracts" / "golden.yaml").read_text(encoding="utf-8")
    )["augment"]
    ramp = np.arange(2 * 3 * 64, dtype=np.float64).reshape(2, 3, 8, 8)
    image = 0.5 + 0.45 * np.sin(ramp * np.float64(np.float32(0.7)))
    target = (image[:, :1] > 0.5).astype(float)
    weights = np.cos(ramp * np.pi / 50)
    generator = torch.Generator().manual_seed(7)
    torch.randint(2**62, (1,), generator=generator)  # of what comes before mixing
    base = int(torch.randint(2**62, (1,), generator=generator))
    place = Draws(base, "place of mixing", 1).uniform(1)[0, 0]
    assert place < 0.5  # of two places the first one: the image is mixed, too
    for name, alpha in (("mixup", 0.2), ("cutmix", 1), ("cutmixup", 1), ("manifold_mixup", 1)):
        numbers = Draws(base, name, 2).uniform(4).numpy()
        share = np.ones((2, 1, 8, 8))
        for sample, u in enumerate(numbers):
            first, second = stats.beta(alpha, alpha).ppf(u[:2])
            half = 4 * np.sqrt(1 - first)
            low = [max(0, round(8 * c - half)) for c in u[2:]]
            high = [min(8, round(8 * c + half)) for c in u[2:]]
            box = np.s_[sample, 0, low[0] : high[0], low[1] : high[1]]
            if name.endswith("mixup") and not name.startswith("cut"):
                share[sample] = first
            else:
                share[box] = 0 if name == "cutmix" else second
        found = [share * each + (1 - share) * each[::-1] for each in (image, target)]
        expected = [(each * weights[:, : each.shape[1]]).mean() for each in found]
        assert golden[name][1][:2] == pytest.approx(expected, abs=2e-6), name


def test_one_sample_and_odd_sizes_are_refused():
    with pytest.raises(ShapeError, match="one sample has no other"):
        run({"mixup": {}}, batch(1, (8, 8)))
    image, fov, target, counted = batch(2, (8, 8))
    with pytest.raises(ShapeError, match="does not divide"):
        run({"mixup": {}}, (image, fov, target[..., :3], counted[..., :3]))
    assert run({"mixup": {"p": 1}}, [t[:0] for t in batch(2, (8, 8))])[0].shape == (0, 3, 8, 8)


@pytest.mark.parametrize("name", MIXING)
def test_a_micro_batch_of_one_is_refused_before_anything_starts(name):
    sections = {"data": {"train": "a"}, "augment": {name: {}}, "train": {"micro_batch_size": 1}}
    with pytest.raises(UserError) as caught:
        load_experiment(sections, registries=REGISTRIES)
    assert str(caught.value) == (
        f"train.micro_batch_size: {name} mixes samples of a micro-batch, which holds one; "
        f"allowed: 2 or more, or no augment.{name}"
    )
    with pytest.raises(UserError, match=rf"augment\.{name}\.alpha: 0 is not allowed"):
        load_experiment(
            {"data": {"train": "a"}, "augment": {name: {"alpha": 0}}}, registries=REGISTRIES
        )


def test_a_loss_of_hard_targets_is_refused(monkeypatch):
    sections = {"data": {"train": "a"}, "augment": {"cutmix": {}}, "loss": {"name": "bce"}}
    load_experiment(sections, registries=REGISTRIES)
    assert LOSSES.part("bce").arguments is BceArguments
    monkeypatch.setattr(BceArguments, "soft_targets", False, raising=False)
    with pytest.raises(UserError, match="which the loss bce cannot take") as caught:
        load_experiment(sections, registries=REGISTRIES)
    assert caught.value.where == "augment.cutmix"


def test_behind_the_encoder_the_target_is_mixed_and_the_image_is_not():
    tensors = batch(6, (16, 24), 4)
    spec = {"manifold_mixup": {"p": 0.5, "alpha": 1, "at": "encoder"}}
    image, fov, target, counted = run(spec, tensors)
    assert equal((image, fov), tensors[:2])
    at_input = run({"manifold_mixup": {"p": 0.5, "alpha": 1, "at": "input"}}, tensors)
    assert equal((target, counted), at_input[2:])
    assert not torch.equal(target, tensors[2])


def test_the_place_is_drawn_for_a_whole_micro_batch_and_each_as_often():
    augmenter = compose({"manifold_mixup": {"p": 1.0}})
    hidden = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        mixes = augmenter.mixes(4, (8, 8), generator=generator)
        (place,) = {drawn.hidden for drawn in mixes if drawn is not None}
        hidden.append(place)
    assert 70 < sum(hidden) < 130


def test_a_partner_that_was_mixed_itself_is_a_partner_as_it_is_now():
    tensors = batch(6, (8, 8))
    ways = {
        "mixup": {"p": 0.5, "alpha": 1},
        "manifold_mixup": {"p": 0.5, "alpha": 1, "at": "encoder"},
    }
    augmenter = compose(ways)
    mixes = augmenter.mixes(6, (8, 8), generator=torch.Generator().manual_seed(11))
    image, _, target, _ = augmenter.mixed(*tensors, mixes)
    assert {drawn.hidden for drawn in mixes if drawn is not None} == {True, False}
    pairs = [(n, one) for n, one in enumerate(mixes) if one is not None and one.hidden]
    assert any(mixes[one.other] is not None for _, one in pairs)
    seen = augmenter.mixed(*tensors, [None if m is None or m.hidden else m for m in mixes])
    for sample, drawn in pairs:
        assert torch.equal(image[sample], tensors[0][sample])
        share = float(drawn.share.flatten()[0])
        expected = share * seen[2][sample] + (1 - share) * seen[2][drawn.other]
        assert torch.allclose(target[sample], expected, atol=1e-6)


@pytest.mark.parametrize("at", ["decoder", [], ["input", "level3"], 3])
def test_places_that_are_none_are_refused(at):
    with pytest.raises(UserError, match="at"):
        AUGMENTATIONS.arguments("manifold_mixup", {"at": at})


def test_a_model_without_a_place_behind_its_encoder_is_refused():
    sections = {"data": {"train": "a"}, "augment": {"manifold_mixup": {}}, "model": {"name": "dpt"}}
    with pytest.raises(UserError) as raised:
        load_experiment(sections, registries=REGISTRIES)
    assert raised.value.where == "augment.manifold_mixup.at"
    sections["augment"] = {"manifold_mixup": {"at": ["input"]}}
    load_experiment(sections, registries=REGISTRIES)
