"""What a user sees for everything that can be wrong in a space: the exact line."""

from pathlib import Path

import pytest
from config_parts import REGISTRIES, STORES, load

from vesselflow.config.experiment import Train
from vesselflow.config.loading import load_space
from vesselflow.errors import UserError

TOP = (
    "task, data, split, normalise, sampling, augment, model, loss, optimizer, schedule, train, "
    "score, name, question, description, stores, grid, fixed, search, match_parameters, folds, "
    "seeds, objective, hypotheses, resources, estimate, prices"
)

SECTIONS = (
    "task, data, split, normalise, sampling, augment, model, loss, optimizer, schedule, train, "
    "score"
)

TRAIN = ", ".join(f"train.{key}" for key in Train.model_fields) + "; did you mean 'train.epochs'?"

#: text of the file (after the stores) -> the line
IN_FILE = {
    "unknown-key": (
        "losss: {}",
        f"space.yaml: losss: unknown key 'losss'; allowed: {TOP}, extends, profiles; "
        "did you mean 'loss'?",
    ),
    "unknown-inner-key": (
        "train: {epoch: 3}",
        "space.yaml: train.epoch: unknown key 'epoch'; allowed: " + TRAIN.replace("train.", ""),
    ),
    "unknown-shuffle": (
        "data: {train: a, shuffle: {name: windw, samples: 3}}",
        "space.yaml: data.shuffle: {'name': 'windw', 'samples': 3} is not allowed; "
        "allowed: keyed, window(n), or {name: window, samples: n}",
    ),
    "window-without-samples": (
        "data: {train: a, shuffle: window}",
        "space.yaml: data.shuffle: 'window' is not allowed; "
        "allowed: keyed, window(n), or {name: window, samples: n}",
    ),
    "window-of-nothing": (
        "data: {train: a, shuffle: window(0)}",
        "space.yaml: data.shuffle.samples: 0 is not allowed; allowed: a whole number, 1 or more",
    ),
    "window-on-an-axis": (
        "grid: {data.shuffle: [keyed, window(-1)]}",
        "space.yaml: grid.data.shuffle: 'window(-1)' is not allowed; "
        "allowed: keyed, window(n), or {name: window, samples: n}",
    ),
    "keyed-with-samples": (
        "data: {train: a, shuffle: {name: keyed, samples: 3}}",
        "space.yaml: data.shuffle: {'name': 'keyed', 'samples': 3} is not allowed; "
        "allowed: keyed, window(n), or {name: window, samples: n}",
    ),
    "unknown-loss": (
        "loss: {name: fuzy}",
        "space.yaml: loss.name: unknown loss 'fuzy'; allowed: bce, combined, fuzzy; "
        "did you mean 'fuzzy'?",
    ),
    "unknown-model": (
        "model: {name: wnett}",
        "space.yaml: model.name: unknown model 'wnett'; allowed: wnet, unet; did you mean 'wnet'?",
    ),
    "unknown-augmentation": (
        "augment: {hflp: {}}",
        "space.yaml: augment.hflp: unknown augmentation 'hflp'; allowed: hflip, vflip; "
        "did you mean 'hflip'?",
    ),
    "unknown-sampler": (
        "search: {sampler: rndom}",
        "space.yaml: search.sampler: 'rndom' is not allowed; allowed: grid, random; "
        "did you mean 'random'?",
    ),
    "unknown-argument-of-the-loss": (
        "loss: {name: bce, beta: 0.5}",
        "space.yaml: loss.beta: unknown key 'beta'; allowed: pos_weight",
    ),
    "beta": (
        "loss: {name: fuzzy, beta: 1.3}",
        "space.yaml: loss.beta: 1.3 is not allowed; allowed: 0 to 1 or a mapping (schedule, to)",
    ),
    "beta-of-a-schedule": (
        "loss: {beta: {schedule: linear, to: 1.3}}",
        "space.yaml: loss.beta.to: 1.3 is not allowed; allowed: 0 to 1",
    ),
    "beta-on-an-axis": (
        "grid: {loss.beta: [0, 1.3]}",
        "space.yaml: grid.loss.beta: 1.3 is not allowed; allowed: 0 to 1 or "
        "a mapping (schedule, to)",
    ),
    "nan": (
        "optimizer: {lr: .nan}",
        "space.yaml: optimizer.lr: nan is not allowed; allowed: 0 to 10 (0 excluded)",
    ),
    "yes-is-text": (
        "train: {channels_last: yes}",
        "space.yaml: train.channels_last: 'yes' is not allowed; allowed: true or false",
    ),
    "true-is-no-number": (
        "train: {epochs: true}",
        "space.yaml: train.epochs: true is not allowed; allowed: a whole number, 1 or more",
    ),
    "out-of-range-or-null": (
        "train: {ema: 1}",
        "space.yaml: train.ema: 1 is not allowed; allowed: 0 to 1 (both excluded), or null",
    ),
    "two-averages": (
        "train: {ema: 0.9, swa: {}}",
        "space.yaml: train.swa: train.ema averages the weights already; allowed: one of the two; "
        "set train.ema: null",
    ),
    "two-other-averages": (
        "train: {ema: 0.9, average_last: 2}",
        "space.yaml: train.average_last: train.ema averages the weights already; allowed: one of "
        "the two; set train.ema: null",
    ),
    "mean-of-more-than-all": (
        "train: {epochs: 4, average_last: 5}",
        "space.yaml: train.average_last: 5 is not allowed; allowed: 2 to train.epochs, which is 4",
    ),
    "mean-after-the-end": (
        "train: {swa: {start: 1}}",
        "space.yaml: train.swa.start: 1 is not allowed; allowed: 0 to 1 (1 excluded)",
    ),
    "stop-with-one-score": (
        "train: {epochs: 10, stop: {patience: 3}}",
        "space.yaml: train.stop.patience: 3 epochs without a better score are never seen before "
        "the end, with 1 that is scored; allowed: none with so few; score more of them, "
        "score.epochs: all or {every: n}",
    ),
    "stop-never-seen": (
        "train: {epochs: 4, stop: {patience: 3}}\nscore: {epochs: all}",
        "space.yaml: train.stop.patience: 3 epochs without a better score are never seen before "
        "the end, with 4 that are scored; allowed: 1 to 2; score more of them, "
        "score.epochs: all or {every: n}",
    ),
    "stop-at-once": (
        "train: {stop: {patience: 0}}",
        "space.yaml: train.stop.patience: 0 is not allowed; allowed: a whole number, 1 or more",
    ),
    "no-decay-to-leave-out": (
        "optimizer: {name: sgd}\ntrain: {no_decay_on_norms: true}",
        "space.yaml: train.no_decay_on_norms: the optimizer sgd has no weight decay here to leave "
        "out; allowed: false, or true with an optimizer.weight_decay above 0",
    ),
    "section-is-no-mapping": (
        "train: 3",
        "space.yaml: train: 3 is not allowed; allowed: a mapping",
    ),
    "empty-grid": (
        "grid: {}",
        "space.yaml: grid: the grid is empty; allowed: one axis or more, such as "
        "loss.beta: [0, 0.5, 1]; leave the key out for a single point",
    ),
    "empty-grid-null": (
        "grid:",
        "space.yaml: grid: the grid is empty; allowed: one axis or more, such as "
        "loss.beta: [0, 0.5, 1]; leave the key out for a single point",
    ),
    "empty-axis": (
        "grid: {loss.beta: []}",
        "space.yaml: grid.loss.beta: an axis without values; allowed: one value or more",
    ),
    "axis-is-a-value": (
        "grid: {loss.beta: 0.5}",
        "space.yaml: grid.loss.beta: 0.5 is not allowed; allowed: a list of values, or a mapping "
        "with values, settings, or low and high",
    ),
    "unknown-axis": (
        "grid: {loss.btea: [0, 1]}",
        "space.yaml: grid: unknown key 'loss.btea'; allowed: loss.name, loss.pos_weight, "
        "loss.beta, loss.smooth; did you mean 'loss.beta'?",
    ),
    "unknown-key-in-a-setting": (
        "grid: {size: {settings: [{label: x, set: {train.epoch: 1}}]}}",
        f"space.yaml: grid.size: unknown key 'train.epoch'; allowed: {TRAIN}",
    ),
    "bad-value-in-a-setting": (
        "grid: {size: {settings: [{label: x, set: {train.epochs: 0}}]}}",
        "space.yaml: grid.size.train.epochs: 0 is not allowed; allowed: a whole number, 1 or more",
    ),
    "two-axes-for-one-key": (
        "grid: {train.epochs: [1, 2], size: {settings: [{label: x, set: {train.epochs: 3}}]}}",
        "space.yaml: grid.size: two axes set 'train.epochs' at one point; allowed: each key in "
        "one axis; the other place is grid.train.epochs",
    ),
    "when-never-holds-on-an-axis": (
        "grid: {loss.name: [bce, combined], loss.beta: {values: [0], when: {loss.name: fuzzy}}}",
        "space.yaml: grid.loss.beta.when: this condition never holds: loss.name is never fuzzy; "
        "allowed: loss.name: bce, combined",
    ),
    "when-never-holds-on-a-fixed-key": (
        "grid: {loss.beta: {values: [0], when: {train.amp: bf16}}}",
        "space.yaml: grid.loss.beta.when: this condition never holds: train.amp is never "
        "bf16; allowed: train.amp: none",
    ),
    "when-of-a-later-axis": (
        "grid: {loss.beta: {values: [0], when: {train.epochs: 1}}, train.epochs: [1, 2]}",
        "space.yaml: grid.loss.beta.when: 'train.epochs' is not an earlier axis; allowed: keys "
        "that are no axes; move train.epochs above loss.beta",
    ),
    "when-of-an-unknown-key": (
        "grid: {loss.beta: {values: [0], when: {los.name: bce}}}",
        f"space.yaml: grid.loss.beta.when: unknown key 'los.name'; allowed: {SECTIONS}, stores; "
        "did you mean 'loss.name'?",
    ),
    "range-in-a-grid": (
        "grid: {optimizer.lr: {low: 0.001, high: 0.01}}",
        "space.yaml: grid.optimizer.lr: a range needs the random sampler; allowed: a list of "
        "values; set search: {sampler: random, samples: ...}",
    ),
    "range-upside-down": (
        "grid: {optimizer.lr: {low: 0.1, high: 0.01}}",
        "space.yaml: grid.optimizer.lr: low 0.1 and high 0.01 are no range; allowed: both given, "
        "low at most high",
    ),
    "random-without-samples": (
        "grid: {loss.beta: [0, 1]}\nsearch: {sampler: random}",
        "space.yaml: search.samples: this key is required when search.sampler is random; "
        "allowed: a whole number, 1 or more",
    ),
    "samples-without-random": (
        "search: {samples: 3}",
        "space.yaml: search.samples: 3 has no meaning for the grid; allowed: null; "
        "set search.sampler: random",
    ),
    "too-many-points": (
        "grid: {data.min_fov: [0, 1], train.epochs: ["
        + ", ".join(map(str, range(1, 60001)))
        + "]}",
        "space.yaml: grid: 120000 combinations or more; allowed: at most 100000; draw fewer with "
        "search: {sampler: random, samples: ...}",
    ),
    "unknown-fold": (
        "folds: [0, 4]",
        "space.yaml: folds: fold 4 does not exist; allowed: 0 to 3 (split.folds is 4)",
    ),
    "no-seeds": (
        "seeds: []",
        "space.yaml: seeds: [] is not allowed; allowed: one whole number or more, each once",
    ),
    "one-fold": (
        "split: {folds: 1}",
        "space.yaml: split.folds: 1 is not allowed; allowed: 2 or more when split.test is fold",
    ),
    "patch-over-working-size": (
        "data: {train: a, working_size_px: 64, patch: 65}",
        "space.yaml: data.patch: 65 is not allowed; allowed: at most data.working_size_px, "
        "which is 64",
    ),
    "stride-over-patch": (
        "data: {train: a, patch: 64, stride: 65}",
        "space.yaml: data.stride: 65 is not allowed; allowed: at most data.patch, which is 64; "
        "a larger stride would leave pixels out",
    ),
    "stride-without-patch": (
        "data: {train: a, stride: 65}",
        "space.yaml: data.stride: 65 has no meaning when data.patch is full; allowed: null, or a "
        "number beside a data.patch in px",
    ),
    "margin-without-patch": (
        "data: {train: a, margin: 8}",
        "space.yaml: data.margin: 8 has no meaning when data.patch is full; allowed: 0, or a "
        "number beside a data.patch in px",
    ),
    "margin-that-leaves-nothing": (
        "data: {train: a, patch: 64, margin: 32}",
        "space.yaml: data.margin: 32 leaves nothing of a patch of 64; allowed: at most 31",
    ),
    "margin-that-leaves-no-cell": (
        "data: {train: a, patch: 64, margin: 17}\ntask: {ds_factor: 16}",
        "space.yaml: data.margin: 17 leaves nothing of a patch of 64; allowed: at most 16",
    ),
    "runs-of-part-of-a-micro-batch": (
        "data: {train: a}\nsampling: {name: by_source, samples: 6}",
        "space.yaml: sampling.samples: 6 does not hold whole micro-batches; allowed: multiples of "
        "train.micro_batch_size, which is 4",
    ),
    "unknown-training-store": (
        "data: {train: aa}",
        "space.yaml: data.train: unknown store 'aa'; allowed: a, b; did you mean 'a'?",
    ),
    "unknown-ood-store": (
        "data: {train: a, ood: [c]}",
        "space.yaml: data.ood: unknown store 'c'; allowed: a, b",
    ),
    "training-store-is-ood": (
        "data: {train: a, ood: [b, a]}",
        "space.yaml: data.ood: 'a' is trained on as well; allowed: stores other than data.train",
    ),
    "no-training-store": (
        "data: {ood: [b]}",
        "space.yaml: data.train: this key is required; allowed: text",
    ),
    "late-scoring": (
        "train: {epochs: 3}\nscore: {epochs: [1, 4]}",
        "space.yaml: score.epochs: 4 is not allowed; allowed: 1 to train.epochs, which is 3",
    ),
    "scoring-epoch-zero": (
        "score: {epochs: [0]}",
        "space.yaml: score.epochs.0: 0 is not allowed; allowed: a whole number, 1 or more",
    ),
    "store-of-two-kinds": (
        "stores: {a: {path: a.h5, synth: {kind: fundus}}}",
        "space.yaml: stores.a: a store has exactly one of path and synth",
    ),
    "store-of-no-kind": (
        "stores: {a: 3}",
        "space.yaml: stores.a: 3 is not allowed; allowed: FILE.h5, synth:KIND?key=value, or a "
        "mapping with path or synth",
    ),
    "unknown-generator": (
        "stores: {a: 'synth:funds'}",
        "space.yaml: stores.a.synth.kind: 'funds' is not allowed; allowed: fundus, "
        "tomogram, vasculature; did you mean 'fundus'?",
    ),
    "no-stores": (
        "stores:",
        "space.yaml: stores: no store is given; allowed: name: FILE.h5, or name: synth:fundus",
    ),
    "unset-variable": (
        "stores: {a: '${NO_SUCH_VARIABLE}/a.h5'}",
        "space.yaml: stores.a.path: the environment variable NO_SUCH_VARIABLE is not set; "
        "export NO_SUCH_VARIABLE=..., or write the path itself",
    ),
    "name": (
        "name: Loss Beta",
        "space.yaml: name: 'Loss Beta' is not allowed; allowed: lower-case letters, digits, _ "
        "and -",
    ),
    "key-in-an-untaken-profile": (
        "profiles: {full: {trian: {}}}",
        f"space.yaml: profiles.full.trian: unknown key 'trian'; allowed: {TOP}; "
        "did you mean 'train'?",
    ),
    "workers": (
        "resources: {workers: 0}",
        "space.yaml: resources.workers: 0 is not allowed; allowed: a whole number, 1 or more",
    ),
    "extends-of-a-number": (
        "extends: 3",
        "space.yaml: extends: 3 is not allowed; allowed: a file name, or a list of them",
    ),
}


def line(folder: Path, text: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, **options)
    return str(caught.value)


@pytest.mark.parametrize("case", IN_FILE)
def test_what_is_wrong_in_the_file(tmp_path: Path, case: str) -> None:
    text, expected = IN_FILE[case]
    own = text.split(":")[0]
    head = "".join(
        part for part in STORES.splitlines(keepends=True) if not part.startswith(f"{own}:")
    )
    assert line(tmp_path, f"{head}{text}\n") == expected


YAML = {
    "empty": (b"", "the file is empty; write at least 'stores:'"),
    "comments-only": (b"# nothing\n", "the file is empty; write at least 'stores:'"),
    "a-list": (b"- 1\n", "the file holds a list; allowed: a mapping (key: value)"),
    "a-value": (b"loss\n", "the file holds a single value; allowed: a mapping (key: value)"),
    "tab": (
        b"train:\n\tepochs: 3\n",
        "not valid YAML at line 2, column 1: found character '\\t' that cannot start any token; "
        "indent with spaces, never with tabs",
    ),
    "broken": (
        b"train: {epochs: 3\nseeds: [0]\n",
        "not valid YAML at line 2, column 6: expected ',' or '}', but got ':'",
    ),
    "question": (
        b"stores: {a: synth:fundus?sources=4}\n",
        "not valid YAML at line 1, column 25: expected ',' or '}', but got '?'; "
        "inside braces and brackets a text with ? stands in quotes",
    ),
    "twice": (
        b"train: {}\nseeds: [0]\ntrain: {}\n",
        "not valid YAML at line 3, column 1: the key 'train' is given twice (first at line 1)",
    ),
    "number-as-key": (
        b"1: 2\n",
        "not valid YAML at line 1, column 1: the key 1 is not text (write it in quotes)",
    ),
    "two-documents": (
        b"a: 1\n---\nb: 1\n",
        "not valid YAML at line 2, column 1: but found another document",
    ),
    "control-character": (
        b"a: 1\nb: \x01\n",
        "not valid YAML at line 2: the character #x0001 is not allowed",
    ),
    "loop": (b"a: &x [*x]\n", "not valid YAML at line 1, column 4: an alias contains itself"),
    "tag": (
        b"a: !!python/object/apply:os.system ['exit 1']\n",
        "the tag '!!python/object/apply:os.system' at line 1, column 4 is refused; "
        "allowed: plain text, numbers, true, false, null, lists, mappings",
    ),
}


@pytest.mark.parametrize("case", YAML)
def test_what_is_wrong_with_the_yaml(tmp_path: Path, case: str) -> None:
    content, expected = YAML[case]
    file = tmp_path / "space.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_space(file, registries=REGISTRIES)
    assert str(caught.value) == f"space.yaml: {expected}"


def test_explosion_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]")
    assert "more than 100000 entries once aliases are written out" in line(
        tmp_path, "\n".join(lines)
    )


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert line(tmp_path, "a: " + "[" * 3000) == "space.yaml: not valid YAML: nested too deeply"


def test_missing_file_names_the_closest(tmp_path: Path) -> None:
    load(tmp_path, STORES, name="loss_beta.yaml")
    missing = tmp_path / "los_beta.yaml"
    with pytest.raises(UserError) as caught:
        load_space(missing, registries=REGISTRIES)
    assert str(caught.value) == f"{missing}: no such file; did you mean 'loss_beta.yaml'?"


def test_missing_folder_and_directory_and_encoding(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("question: é".encode("latin-1"))
    cases = {
        tmp_path / "no" / "space.yaml": "no such file",
        tmp_path: "a directory, not a YAML file",
        latin: "not UTF-8 text (byte 10); save it as UTF-8",
    }
    for path, expected in cases.items():
        with pytest.raises(UserError) as caught:
            load_space(path, registries=REGISTRIES)
        assert str(caught.value) == f"{path}: {expected}"


PROFILES = STORES + "profiles: {chase: {train: {epochs: 0}}, full: {}}\n"


def test_unknown_profile(tmp_path: Path) -> None:
    assert line(tmp_path, PROFILES, profile="chas") == (
        "space.yaml: unknown profile 'chas'; allowed: chase, full; did you mean 'chase'?"
    )
    assert line(tmp_path, STORES, profile="chase") == (
        "space.yaml: unknown profile 'chase'; allowed: none, the file has no profiles"
    )


def test_an_error_names_the_profile_that_it_comes_from(tmp_path: Path) -> None:
    assert line(tmp_path, PROFILES, profile="chase") == (
        "space.yaml: profiles.chase.train.epochs: 0 is not allowed; allowed: a whole number, "
        "1 or more"
    )


def test_an_error_names_the_extended_file_that_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {epochs: 0}\n")
    assert line(tmp_path, STORES + "extends: base.yaml\n") == (
        "base.yaml: train.epochs: 0 is not allowed; allowed: a whole number, 1 or more"
    )


def test_files_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: [space.yaml]\n")
    assert line(tmp_path, STORES + "extends: base.yaml\n") == (
        "space.yaml: extends: the files extend each other: space.yaml -> base.yaml -> space.yaml"
    )


SETS = {
    "train.epoch=1": (f"--set: unknown key 'train.epoch'; allowed: {TRAIN}"),
    "beta=1": f"--set: unknown key 'beta'; allowed: {TOP}, size; did you mean 'loss.beta'?",
    "loss.beta=1.3": (
        "--set loss.beta: 1.3 is not allowed; allowed: 0 to 1 or a mapping (schedule, to)"
    ),
    "loss.name=fuzy": (
        "--set loss.name: unknown loss 'fuzy'; allowed: bce, combined, fuzzy; did you mean 'fuzzy'?"
    ),
    "loss.beta": (
        "--set: 'loss.beta' is not allowed; allowed: key.path=value; "
        "for instance --set train.epochs=2"
    ),
    "seeds=[0": (
        "--set seeds: not valid YAML at line 1, column 3: expected ',' or ']', "
        "but got '<stream end>'"
    ),
    "size=huge": "--set size: unknown setting 'huge'; allowed: small, large",
}


@pytest.mark.parametrize("text", SETS)
def test_what_is_wrong_with_set(tmp_path: Path, text: str) -> None:
    grid = (
        "grid:\n  loss.beta: [0, 1]\n  size: {settings: [{label: small, set: {train.epochs: 1}}, "
        "{label: large, set: {train.epochs: 2}}]}\n"
    )
    assert line(tmp_path, STORES + grid, overrides=[text]) == SETS[text]


def test_every_error_is_one_line(tmp_path: Path) -> None:
    assert "\n" not in line(tmp_path, STORES + 'train: {amp: "a\\nb"}\n')


def test_loading_executes_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for tag in ("python/object/apply:os.system", "python/object/new:os.system", "python/name:os"):
        with pytest.raises(UserError, match="is refused"):
            load(tmp_path, f"a: !!{tag} ['touch {witness}']\n")
    load(tmp_path, STORES, overrides=[f"question=$(touch {witness})"])
    assert not witness.exists()
