"""All that is wrong in a space is told at once: a line each, in the order of the file."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from config_parts import STORES, load

from vesselflow.errors import MAX_LINES, UserError, UserErrors


def lines(folder: Path, text: str, **options: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, text, **options)
    return caught.value.lines()


def in_place(*texts: str) -> str:
    """A file with these texts, which take the place of what has the same keys in `STORES`."""
    own = {line.split(":")[0] for text in texts for line in text.splitlines()}
    kept = [line for line in STORES.splitlines() if line.split(":")[0] not in own]
    return "\n".join([*kept, *texts])


def test_every_section_and_part_and_axis_of_one_file(tmp_path: Path) -> None:
    text = """
stores: {a: synth:fundus, b: 'synth:fundus?domain=d', c: 3, d: 'synth:fundus?x'}
data: {train: a, patch: 8, stried: 3}
augment: {flip: {}, hflip: {p: 2}, vflip: {q: 1}}
loss: {name: fuzzy, beta: {schedule: linear, to: 3}, smoth: 1}
model: {name: wnet, width: 0}
optimizer: {momentum: 1, lr: 20, name: adam}
schedule: cosine
train: {epochs: 0}
grid:
  loss.smooth: [1, 0]
  train.amp: [bf16, fp8]
  loss.btea: [0, 1]
  size: {settings: [{lable: s, set: {train.ema: 0.5}}, {label: l, set: {train.em: 2}}]}
seeds: [0, -1]
resources: {workers: 0, slot: 1}
hypotheses: [{nam: x}, 3]
"""
    found = lines(tmp_path, text)
    assert [line.removeprefix("space.yaml: ").split("; ")[0] for line in found] == [
        "stores.b.synth.domain: 'd' is not allowed",
        "stores.c: 3 is not allowed",
        "stores.d: 'synth:fundus?x' is not allowed",
        "data.patch: 8 is not allowed",
        "data.stried: unknown key 'stried'",
        "augment.flip: unknown augmentation 'flip'",
        "augment.hflip.p: 2 is not allowed",
        "augment.vflip.q: unknown key 'q'",
        "loss.beta.to: 3 is not allowed",
        "loss.smoth: unknown key 'smoth'",
        "model.width: 0 is not allowed",
        "optimizer.momentum: unknown key 'momentum'",
        "optimizer.lr: 20 is not allowed",
        "schedule: 'cosine' is not allowed",
        "train.epochs: 0 is not allowed",
        "grid: unknown key 'loss.btea'",
        "grid.loss.smooth: 0 is not allowed",
        "grid.train.amp: 'fp8' is not allowed",
        "grid.size: unknown key 'train.em'",
        "seeds.1: -1 is not allowed",
        f"... and {len(MORE)} more",
    ]
    with pytest.raises(UserErrors) as caught:
        load(tmp_path, text)
    assert [str(error).split("; ")[0] for error in caught.value.errors[MAX_LINES:]] == MORE


MORE = [
    "space.yaml: resources.workers: 0 is not allowed",
    "space.yaml: resources.slot: unknown key 'slot'",
    "space.yaml: hypotheses.0.nam: unknown key 'nam'",
    "space.yaml: hypotheses.1: 3 is not allowed",
]

#: One mistake each, in a top-level key of its own, with the line that it gets by itself.
ALONE = {
    "unknown": "questoin: x",
    "store": "stores: {a: synth:fundus, b: synth:fundas}",
    "section": "train: {epochs: 0}",
    "no-mapping": "schedule: cosine",
    "part": "loss: {name: bce, beta: 1}",
    "part-name": "model: {name: wnett}",
    "augmentation": "augment: {hflip: {p: 2}}",
    "axis": "grid: {optimizer.lr: [1e-3, 20]}",
    "seeds": "seeds: [1, 1]",
    "resources": "resources: {gpu: 2}",
    "name": "name: A B",
    "profile": "profiles: {x: {sedes: [1]}}",
}


@pytest.mark.parametrize("pair", list(itertools.combinations(ALONE, 2)), ids="+".join)
def test_each_line_is_the_one_that_the_mistake_gets_alone(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    first, second = (ALONE[name] for name in pair)
    alone = [*lines(tmp_path, in_place(first)), *lines(tmp_path, in_place(second))]
    assert len(alone) == 2
    assert lines(tmp_path, in_place(first, second)) == alone
    assert lines(tmp_path, in_place(second, first)) == alone[::-1]


def test_what_is_wrong_at_every_point_is_said_once(tmp_path: Path) -> None:
    text = STORES + (
        "loss: {smooth: 0}\noptimizer: {lr: 0}\n"
        "grid: {loss.beta: [0, 1.3, 0.5, 2], train.epochs: [1, 2, 0, 3], train.ema: [1, null]}\n"
    )
    assert [line.split("; ")[0] for line in lines(tmp_path, text)] == [
        "space.yaml: loss.smooth: 0 is not allowed",
        "space.yaml: optimizer.lr: 0 is not allowed",
        "space.yaml: grid.loss.beta: 1.3 is not allowed",
        "space.yaml: grid.loss.beta: 2 is not allowed",
        "space.yaml: grid.train.epochs: 0 is not allowed",
        "space.yaml: grid.train.ema: 1 is not allowed",
    ]


def test_sections_that_do_not_fit_each_other(tmp_path: Path) -> None:
    text = (
        "stores: {a: synth:fundus, b: synth:fundus}\ndata: {train: a, ood: [a], stride: 4}\n"
        "split: {folds: 1}\ntrain: {epochs: 2}\nscore: {epochs: [3]}\n"
    )
    assert [line.split(": ")[1] for line in lines(tmp_path, text)] == [
        "data.ood", "data.stride", "split.folds", "score.epochs",
    ]  # fmt: skip


#: What is wrong -> the only lines: what follows from a mistake is not said.
NO_ECHO = {
    # The loss is not known, so nothing is known of its arguments.
    "part-with-a-typo": ("loss: {name: fuzy, gamma: 2}", ["loss.name"]),
    "section-with-a-typo": ("losss: {name: fuzzy}\ngrid: {loss.pos_weight: [1]}", ["losss"]),
    "axis-of-names-with-a-typo": (
        "loss: {pos_weight: 2}\ngrid: {loss.nmae: [bce]}",
        ["grid"],
    ),
    "axis-of-names-that-is-no-list": (
        "loss: {pos_weight: 2}\ngrid: {loss.name: bce}",
        ["grid.loss.name"],
    ),
    "text-for-a-section": ("loss: bce\ngrid: {loss.pos_weight: [1]}", ["loss"]),
    "scored-after-a-bad-count": ("train: {epochs: many}\nscore: {epochs: [20]}", ["train.epochs"]),
    "typo-of-a-required-key": ("hypotheses: [{nam: x}]", ["hypotheses.0.nam"]),
    "store-beside-another-mistake": (
        "data: {train: a, ood: [c]}\nresources: {gpu: 2}",
        ["data.ood", "resources.gpu"],
    ),
    "condition-on-a-bad-axis": (
        "grid: {size: {settings: []}, loss.beta: {values: [1], when: {size: s}}}",
        ["grid.size"],
    ),
    "range-of-a-bad-sampler": (
        "grid: {optimizer.lr: {low: 1e-3, high: 1e-2}}\nsearch: {sampler: rndom, samples: 2}",
        ["search.sampler"],
    ),
    "stores-with-a-typo": ("stores:\nstore: {a: synth:fundus}", ["store"]),
}


@pytest.mark.parametrize("case", NO_ECHO)
def test_what_follows_from_a_mistake_is_not_said(tmp_path: Path, case: str) -> None:
    text, places = NO_ECHO[case]
    assert [line.split(": ")[1] for line in lines(tmp_path, in_place(text))] == places


def test_a_section_that_is_missing_is_told_once(tmp_path: Path) -> None:
    text = "stores: {a: synth:fundus, b: synth:fundus}\n"
    assert lines(tmp_path, text) == [
        "space.yaml: data.train: this key is required; allowed: text"
    ]  # fmt: skip


def test_the_files_and_set_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {epochs: 0}\nsplit: {folds: 0}\n")
    text = STORES + "extends: base.yaml\nprofiles: {p: {optimizer: {lr: 0}}}\nseeds: [-1]\n"
    found = lines(
        tmp_path, text, profile="p", overrides=["train.ema=2", "train.amq=bf16", "loss.beta"]
    )
    assert [line.split("; ")[0] for line in found] == [
        "space.yaml: profiles.p.optimizer.lr: 0 is not allowed",
        "space.yaml: seeds.0: -1 is not allowed",
        "base.yaml: train.epochs: 0 is not allowed",
        "base.yaml: split.folds: 0 is not allowed",
        "--set: 'loss.beta' is not allowed",
        "--set: unknown key 'train.amq'",
        "--set train.ema: 2 is not allowed",
    ]


def test_thousands_of_wrong_points_take_no_longer_than_right_ones(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(1, 5001)))
    text = STORES + f"grid: {{loss.beta: [2, 3], train.epochs: [{many}]}}\n"
    start = time.perf_counter()
    assert len(lines(tmp_path, text)) == 1  # 3 comes after more wrong points than are looked at
    assert time.perf_counter() - start < 10  # 0.5 s on an idle core
