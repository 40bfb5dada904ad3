"""Names of runs that people have: results that stand under these must be found again.

Written down before the code around them was moved. A name may only change with a version, because
numbers changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vesselflow.config.experiment import load_experiment
from vesselflow.config.fingerprint import digest, run_id, run_identity
from vesselflow.config.loading import load_space
from vesselflow.config.yaml_files import load_yaml
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.resolved import task_of
from vesselflow.runs.specs import StoreFacts
from vesselflow.stores.layout import Layout
from vesselflow.stores.synth import planned_layout, synth_digest_key

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"

FACTS: dict[str, Any] = {
    "seed": 0,
    "store_digest": "5" * 20,
    "split_digest": "7" * 20,
    "registries": REGISTRIES,
}

#: (file, profile) -> number of runs with different names, name of the first point's run, digest of
#: all names in order.
SHIPPED = {
    ("augmentation.yaml", None): (8, "543cd3e2159ca014e404", "4b312b0ca2f4928b1d5d"),
    ("augmentation.yaml", "full"): (24, "128a2862191952b08fb7", "34cef963e8c945b21e3b"),
    ("beta_schedule.yaml", None): (7, "7ebb410cc004325e56bf", "a71427ad3943df513520"),
    ("beta_schedule.yaml", "full"): (7, "68bb43777a5e06b2de5e", "e8aebd2661dbfee28d48"),
    ("data_size.yaml", None): (1, "f13947a609e066364657", "ee19e6e88ba0f95c259a"),
    ("data_size.yaml", "full"): (2, "68bb43777a5e06b2de5e", "9dc697ab19594db3ef24"),
    ("encoders.yaml", None): (4, "434145ba1929de9649ee", "c81a7659b35a74a407ea"),
    ("encoders.yaml", "full"): (16, "53cec1b347192bd4f974", "008aa6398dfbd5b1998f"),
    ("fpn.yaml", None): (3, "a7b2cd7b692518c8bb66", "9de5b35cff4d92006850"),
    ("fpn.yaml", "full"): (12, "7fe11e7530a635944744", "f342884c2afc64129d5a"),
    ("keypoints_fpn.yaml", None): (3, "3d625dc4f449318ac039", "2232cde1e3b54e48dbb3"),
    ("keypoints_fpn.yaml", "full"): (6, "ac16b7867472614b9b2a", "edb1ec8baa3f0fa23e2c"),
    ("keypoints_loss_beta.yaml", None): (4, "fbf9a5d9aa2af6476139", "9deda6d3b2a5d754bfe5"),
    ("keypoints_loss_beta.yaml", "full"): (12, "fcaf477d1bc7811acc22", "407987a5701f3e2fe5f1"),
    ("keypoints_loss_beta.yaml", "laptop"): (4, "e62a79f61795c11adfb5", "6cb089cab065a00f2c0e"),
    ("keypoints_sampling.yaml", None): (5, "c3d108852863a6dbd526", "1d691b42cfec8783320a"),
    ("keypoints_sampling.yaml", "full"): (13, "a8300a0025023e0fe71a", "d70835cff0b524d4554d"),
    ("keypoints_se.yaml", None): (5, "c3d108852863a6dbd526", "6c4f29cb8d781b71d7d5"),
    ("keypoints_se.yaml", "full"): (19, "a8300a0025023e0fe71a", "db86727cb959e3d67cec"),
    ("keypoints_sigma.yaml", None): (6, "2f3ec1b0141f49af72ad", "06e789e14f45aa1606f5"),
    ("keypoints_sigma.yaml", "full"): (15, "1237f8a7fe2dce5ba9d4", "42a2cf56b6e4ee7347b1"),
    ("label_smoothing.yaml", None): (4, "daf0800b5eecdd64e225", "07e9c16b61238aba8273"),
    ("label_smoothing.yaml", "full"): (4, "8e29f444ca033539c5d0", "d3857b2383052bbf2df2"),
    ("loss_beta.yaml", None): (6, "47314de93c5bacd048bf", "1a0843215b821209a5a3"),
    ("loss_beta.yaml", "chase"): (3, "00a165609a3cd60cfb24", "6c1944abee6537829727"),
    ("loss_beta.yaml", "full"): (22, "3388a025dc38dd59787a", "304980267a600cb1ac7d"),
    ("loss_beta.yaml", "laptop"): (4, "47314de93c5bacd048bf", "ae0bd368b23660fc3d9c"),
    ("loss_zoo.yaml", None): (8, "100a4c33b7a50614fdd6", "01e7a6ddb6676a6c5797"),
    ("loss_zoo.yaml", "full"): (12, "14dbc804122669428f4e", "b43f9c8a50c70a5bfdfb"),
    ("mixing.yaml", None): (5, "3a840f6e1684537b4be2", "dec38431837a2b066295"),
    ("mixing.yaml", "full"): (13, "68bb43777a5e06b2de5e", "219e5621ef778e84c475"),
    ("normalisation.yaml", None): (5, "dca23ddd3188d81ada22", "4956219ba27847b6e29c"),
    ("normalisation.yaml", "full"): (10, "d2bd580f806d9939c231", "ddd70efe020739123572"),
    ("optimiser.yaml", None): (5, "3b2023bde2ab60891977", "aa7a5faba6aa7b734861"),
    ("optimiser.yaml", "full"): (15, "e5d441ef4988ed7323c8", "edb688d89287ad3f4c66"),
    ("patchification.yaml", None): (6, "3d2a38fc5caa6978131f", "c5d201a02142bf129a76"),
    ("patchification.yaml", "full"): (12, "eaac69b85b64742bdc97", "6ee21f08c84eac3f105c"),
    ("resolution.yaml", None): (4, "3719858b3a499ab48694", "1ab966c7cfa11dc9ed69"),
    ("resolution.yaml", "full"): (4, "be5b0a05bae95ef12434", "9b82ce87ad39fb86be89"),
    ("se.yaml", None): (6, "60e23296446f87fdd084", "e90bb9b79af7645b977d"),
    ("se.yaml", "full"): (50, "68bb43777a5e06b2de5e", "03031093b2510507d391"),
    ("slices.yaml", None): (7, "58db4a19f98ee89e9045", "1f85ce33ba589c263a41"),
    ("slices.yaml", "full"): (13, "a802d61d94709ff06e8f", "7a9c30190a74dd7c1637"),
    ("unlabelled.yaml", None): (3, "f13947a609e066364657", "2a4e4b8ab4a9908a0b37"),
    ("unlabelled.yaml", "full"): (5, "68bb43777a5e06b2de5e", "7438e6ea07c06b41ee61"),
    ("vasculature.yaml", None): (3, "bb972fab4c3d5779b70b", "ed85052f7ada2ac13e67"),
    ("vasculature.yaml", "full"): (10, "fd389dc6e1ec74386cbe", "94fe212851a0e50d5229"),
}

#: The same of profiles as they were before 0.4.0, with what they set then instead of a spacing.
BEFORE = {
    ("chase", 512): (3, "bf285a0619b31f441bc8", "3150a62cbf06ed8633ff"),
    ("full", 768): (22, "af5d22cb71d6470b1149", "47fe41c99fbb43f2db7d"),
}

#: Name of the run of an experiment that says no more than the store.
DEFAULT = "040629cbdc9d087e7a44"

#: (section, what it holds beside the defaults) -> name.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("data", {}, "040629cbdc9d087e7a44"),
    ("model", {"name": "wnet"}, "040629cbdc9d087e7a44"),
    ("model", {"name": "unet"}, "1de4beca1e8ecf39c7b0"),
    ("model", {"name": "unetplusplus"}, "113d92cf486f756066a1"),
    ("model", {"name": "manet"}, "cbea79b214b823f31180"),
    ("model", {"name": "linknet"}, "97093d31271813011e5e"),
    ("model", {"name": "fpn"}, "1c3cd06df8b9895c215d"),
    ("model", {"name": "pspnet"}, "a7994fc5a3ccb170647e"),
    ("model", {"name": "pan"}, "97ebdf086cd145900d52"),
    ("model", {"name": "deeplabv3"}, "839a54d27bf42100faa2"),
    ("model", {"name": "deeplabv3plus"}, "c5d93778a9e5d98795c2"),
    ("model", {"name": "upernet"}, "2aa5c04ee822a6893d9a"),
    ("model", {"name": "segformer"}, "6dd942c540a831ec6a80"),
    ("model", {"name": "dpt"}, "2d714c5fccbd9e8f8cf1"),
    ("loss", {"name": "bce"}, "6c5f7050696b6a632754"),
    ("loss", {"name": "dice"}, "29c50e881f0ed1ae18a9"),
    ("loss", {"name": "combined"}, "040629cbdc9d087e7a44"),
    ("loss", {"name": "fuzzy"}, "9d35cc4c57fd0badb95b"),
    ("loss", {"name": "tversky"}, "565300973be010e09fd6"),
    ("loss", {"name": "focal"}, "99ea3e7de62f29970104"),
    ("loss", {"name": "jaccard"}, "af4f849b918d3bb5eeb3"),
    ("loss", {"name": "fbeta"}, "8875ea159f09ff1d0f3c"),
    ("loss", {"name": "focal_tversky"}, "581eb1aa9ecb861222e2"),
    ("loss", {"name": "mcc"}, "11bfdaff40916caff438"),
    ("loss", {"name": "lovasz"}, "a3589deec1d583c2efad"),
    ("loss", {"name": "cldice"}, "c463c5caee12e8fcabf1"),
    ("loss", {"name": "boundary"}, "78110b320604275ebe23"),
    ("loss", {"name": "skeleton_recall"}, "566941cc8c2efd5a99a4"),
    (
        "loss",
        {
            "name": "compose",
            "terms": {
                "lovasz": {"weight": {"schedule": "linear", "from": 0, "to": 1}},
                "bce": {"pos_weight": 2},
            },
        },
        "63aa2e9c02a761550d74",
    ),
    ("augment", {"hflip": {}}, "3caaf38168f15979d3b4"),
    ("augment", {"vflip": {}}, "1e47f4a5d3a3cfbe8fd6"),
    ("augment", {"rotate90": {}}, "b67c2bf3f3533ddf57ad"),
    ("augment", {"affine": {}}, "46be20cd0362efe4e7b8"),
    ("augment", {"random_resized_crop": {}}, "34809eaf01e8b932ae21"),
    ("augment", {"color_jitter": {}}, "613c4b980be2c9d07c1c"),
    ("augment", {"gamma": {}}, "989ea318e7628e9902d8"),
    ("augment", {"gaussian_noise": {}}, "0e21b8fb3bf2fb725fb3"),
    ("augment", {"channel_shift": {}}, "d3349f9b8cf5884deb5a"),
    ("augment", {"channel_shuffle": {}}, "88f5e288a4cd697892f6"),
    ("augment", {"clahe": {}}, "c14d52f4581838c0380f"),
    ("augment", {"blur": {}}, "a779ec6293025e67a9c6"),
    ("augment", {"sharpen": {}}, "bc660f8600e5278defe1"),
    ("augment", {"coarse_dropout": {}}, "730dfaa5ecf34fa750f0"),
    ("augment", {"mixup": {}}, "43e52a5451e57227e13e"),
    ("augment", {"cutmix": {}}, "c24897a2f9169ac8f0c6"),
    ("augment", {"cutmixup": {}}, "f81a455786e67cbc5eb7"),
    ("augment", {"manifold_mixup": {}}, "87dca3f3b30f8762a4ea"),
    ("augment", {"manifold_mixup": {"at": "encoder", "p": 1.0}}, "388c23667225b9ea90c4"),
    ("augment", {"cutout": {}}, "75ea6664dcfdd12b51a5"),
    (
        "augment",
        {"hflip": {"p": {"schedule": "linear", "from": 0, "to": 1}}},
        "7d7470a6f2fdc19a7d50",
    ),
    (
        "loss",
        {"name": "fuzzy", "beta": {"schedule": "linear", "from": 0.2, "to": 0.8}},
        "73975b1d6493111c9a26",
    ),
    ("loss", {"name": "bce", "pos_weight": "balanced"}, "2476a93ff349a3ce0b2e"),
    ("model", {"name": "wnet", "filters": [8, 16], "dropout": 0.1}, "0cdad03680daf957ffb7"),
    ("model", {"name": "unet", "encoder": "resnet18"}, "eda02ab7eb0e4c96b721"),
    (
        "augment",
        {"affine": {"degrees": 20, "scale": [0.8, 1.25]}, "hflip": {"p": 1}},
        "e9b7b43c58502a60187a",
    ),
    ("model", {"name": "wnet", "se": "scse"}, "f676c207c919e5fb4d43"),
    ("model", {"name": "wnet", "se": "cse", "se_at": ["skip", "decoder"]}, "d4310a71e4663f472fd0"),
    ("model", {"name": "wnet", "norm": "group", "activation": "gelu"}, "3220fd55a0adf5492cd9"),
    (
        "model",
        {"name": "unet3d", "se": "project_excite", "se_reduction": 4},
        "1835740d78f74c3921d7",
    ),
    ("model", {"name": "fpn2d"}, "ce370e435469fadffd36"),
    ("model", {"name": "fpn2d", "fusion": "parallel_cascade", "se": "eca"}, "417f1c8f7ac22363113c"),
    ("model", {"name": "unet", "se": "scse", "se_at": "skip"}, "4d827a3deb0d1e0fc179"),
    ("model", {"name": "unet", "se": "cse", "se_at": "encoder"}, "e641b49d54e14e713ee2"),
    ("model", {"name": "linknet", "se": "cse"}, "7be696cd0f62a98a2609"),
    ("model", {"name": "manet", "se": "cse", "se_at": ["encoder", "skip"]}, "ddfed96d35aca589b99f"),
    ("model", {"name": "unetplusplus", "se": "cse"}, "4230b0b6fd7b1f1c3c42"),
    ("model", {"name": "fpn3d", "fusion": "cascade"}, "6fe8c99a857826e2fe8d"),
    ("model", {"name": "encoded25d", "encoder": "resnet18", "slices": 3}, "41e48be4bc5562298d42"),
    ("model", {"name": "unet3d", "convolution": "separated"}, "cf9cb8e745faa0c4c2c3"),
    ("model", {"name": "fpn3d", "convolution": "shifted"}, "9bdb1ca27e82ff90e7ef"),
    ("model", {"name": "unet25d", "windows": 3, "fuse": "max"}, "298cba232641e62b2aea"),
    ("model", {"name": "unet25d", "slices": 3, "stem": "conv3d"}, "99a66b531c6d35fd1319"),
    ("model", {"name": "wnet", "padding": "reflect"}, "1db748d6faf57046c543"),
    ("model", {"name": "fpn2d", "coordinates": True}, "5e168170ea9cce578110"),
    ("model", {"name": "fpn3d", "deep_supervision": 0.5}, "fc48048e6ae60a403c6d"),
    ("model", {"name": "wnet", "head": "softmax"}, "493a83177110f346710a"),
    ("model", {"name": "wnet", "skip_gate": "attention"}, "7b790fcd109d9749e26e"),
    ("model", {"name": "wnet", "input_norm": True}, "0598bf1c6019823dd77d"),
    ("model", {"name": "unet", "input_norm": True}, "0a4496bb0904a75990bf"),
    ("model", {"name": "wnet", "drop_path": 0.1}, "3da79a2ede698e685b49"),
    ("model", {"name": "fpn3d", "drop_path": 0.2}, "f3831d45eef682eafe5f"),
    ("model", {"name": "unet", "drop_path": 0}, "1de4beca1e8ecf39c7b0"),
    ("model", {"name": "segformer", "drop_path": 0}, "c5056e9467aa3e87e2cf"),
    ("model", {"name": "fpn3d", "padding": "reflect"}, "fa5db57dbd5ffae75c61"),
    ("model", {"name": "unet", "padding": "replicate"}, "c8fc444154fc73e153d8"),
    ("model", {"name": "wnet", "presence": 0.3}, "8001bdc78bffc4ce627f"),
    ("normalise", {"scope": "dataset"}, "650aea7cf217902ee789"),
    ("normalise", {"scope": "patch", "method": "median"}, "1118eacf8c4104c74816"),
    ("normalise", {"method": "percentile", "per_channel": False}, "9c512812cf47fa2b8bf8"),
    ("optimizer", {"lr": 0.01}, "d90c7fc7b86d7859dc95"),
    (
        "optimizer",
        {"name": "adamw", "weight_decay": 0, "beta1": 0.8, "beta2": 0.99},
        "f0d4724a3f2d50aa93fe",
    ),
    ("optimizer", {"name": "adam"}, "32fdf2de1796cbbc0358"),
    ("optimizer", {"name": "sgd", "momentum": 0.5}, "b1012f323db181ca432b"),
    ("optimizer", {"name": "radam"}, "7a3967e0f30f078efcb6"),
    ("optimizer", {"name": "radam", "weight_decay": 0.1}, "edf9236a98a5fe065ad9"),
    ("optimizer", {"name": "lion"}, "448f81e3c7c054b29c3f"),
    ("schedule", {"name": "cosine"}, "aaa491688ec590c92c66"),
    ("schedule", {"warmup": 0.1}, "01cd47364f1b4591cd00"),
    ("schedule", {"warmup": 0.6}, "2dacd900efaddc24c096"),
    ("schedule", {"name": "cosine", "floor": 0.1}, "94c651ca0a696f32b6f6"),
    ("schedule", {"name": "cosine", "warmup": 0.5}, "000c909b534710571e3f"),
    ("schedule", {"name": "cyclic"}, "40d91c366b5b5c493635"),
    ("schedule", {"name": "cyclic", "cycles": 3, "floor": 0.01}, "40e6778387daa24df34c"),
    ("schedule", {"name": "linear"}, "223082d90dd710814262"),
    ("schedule", {"name": "polynomial", "power": 0.5, "floor": 0.01}, "1f10dfc03e756ce5c8a6"),
    ("schedule", {"name": "step"}, "be884117f769a0dc0c6e"),
    (
        "schedule",
        {"name": "step", "every": None, "milestones": [0.5, 0.75]},
        "26a4b108e8dd76422e6b",
    ),
    ("schedule", {"name": "one_cycle", "peak": 0.2}, "0465576662bc8fcc327b"),
    ("schedule", {"name": "triangular", "minimum": 0.2, "maximum": 0.9}, "4dd3b26c0a3c319ef5c6"),
    ("schedule", {"name": "plateau", "patience": 2}, "1648497abf81e6d200da"),
    ("train", {"epochs": 20, "ema": 0.99, "clip_norm": 1}, "7ad03330c0332c38374b"),
    ("train", {"log_health": True}, "040629cbdc9d087e7a44"),
    ("train", {"recompute": True}, "040629cbdc9d087e7a44"),
    ("train", {"swa": {}}, "c945bea384184586aa3f"),
    ("train", {"swa": {"start": 0.5}}, "f37cfaf20fdd95a1a627"),
    ("train", {"average_last": 5}, "0c0b9e170e4450c5a81d"),
    ("train", {"freeze": ["first"]}, "ea394bed828424532ffd"),
    ("train", {"encoder_lr_factor": 0.1, "no_decay_on_norms": True}, "30de114524328abc6a6b"),
    ("data", {"working_size_px": 256, "patch": 64, "stride": 32}, "ff9656520c63adb5b814"),
    ("data", {"patch": 64, "margin": 8}, "7f37141c3ddd761e70a5"),
    ("sampling", {"name": "by_source"}, "ad5925e4bf64a33b75b0"),
]


def _name(section: str, values: dict[str, Any]) -> str:
    sections = {"data": {"train": "a"}, section: values}
    if section == "data":
        sections = {"data": {"train": "a", **values}}
    return run_id(load_experiment(sections, registries=REGISTRIES), **FACTS)


@pytest.mark.parametrize(("file", "profile"), SHIPPED)
def test_the_runs_of_shipped_spaces_keep_their_names(file: str, profile: str | None) -> None:
    assert _names(file, profile) == SHIPPED[file, profile]


@pytest.mark.parametrize(("profile", "size"), BEFORE)
def test_the_runs_of_profiles_as_they_were_keep_their_names(profile: str, size: int) -> None:
    sets = ("data.spacing_um=null", f"data.working_size_px={size}")
    assert _names("loss_beta.yaml", profile, sets) == BEFORE[profile, size]


def _names(file: str, profile: str | None, overrides: tuple[str, ...] = ()) -> tuple[int, str, str]:
    space = load_space(SPACES / file, profile=profile, overrides=overrides, registries=REGISTRIES)
    names = []
    for point in space.expand().points:
        train = point.experiment.data.train
        declared = space.stores[train].synth
        layout = None if declared is None else planned_layout(declared.arguments)
        facts = StoreFacts(train, Path(), "", (), layout=layout)
        task = task_of(point.experiment, facts).identity
        names.append(digest(run_identity(point.experiment, **FACTS, task=task)))
    return len(set(names)), names[0], digest(names)


def test_every_shipped_space_is_here() -> None:
    found = {
        (path.name, profile)
        for path in SPACES.rglob("*.yaml")
        for profile in (None, *load_yaml(path).get("profiles", {}))
    }
    assert found == set(SHIPPED)


@pytest.mark.parametrize(("section", "values", "name"), CASES)
def test_a_run_keeps_its_name(section: str, values: dict[str, Any], name: str) -> None:
    assert _name(section, values) == name
    neutral: list[dict[str, Any]] = [{}, {"name": "combined"}, {"name": "wnet"}]
    neutral += [{"log_health": True}, {"recompute": True}]
    assert (name == DEFAULT) == (values in neutral)


def test_a_run_of_factors_by_source_keeps_its_name() -> None:
    sections = {
        "data": {"train": "a"},
        "augment": {"hflip": {}},
        "train": {"augment_by_source": {"pseudo_*": 1.5}},
    }
    experiment = load_experiment(sections, registries=REGISTRIES)
    assert run_id(experiment, **FACTS) == "0b3387fd0f66a7874d54"


def test_a_run_that_saw_unlabelled_images_keeps_its_name() -> None:
    data = {"train": "a", "unlabelled": "u"}
    names = []
    for weight in (0, 0.5):
        sections = {"data": data, "train": {"domain_weight": weight}}
        names.append(run_id(load_experiment(sections, registries=REGISTRIES), **FACTS))
    assert names == [DEFAULT, "682a9cb5cf84a243c69d"]


def test_a_run_of_exclusive_classes_keeps_its_name() -> None:
    experiment = load_experiment({"data": {"train": "a"}}, registries=REGISTRIES)
    for layout, name in (
        (Layout(classes=("artery", "vein"), target="planes"), DEFAULT),
        (Layout(classes=("artery", "vein"), target="labels"), "64e959716a637e28ccdc"),
        (Layout(classes=("vein",), target="labels"), DEFAULT),
    ):
        task = task_of(experiment, StoreFacts("a", Path(), "", (), layout=layout)).identity
        assert digest(run_identity(experiment, **FACTS, task=task)) == name


def test_a_synthetic_store_keeps_its_name() -> None:
    assert synth_digest_key({"sources": 12}) == "3bad4737289b24e8"
    given = {"kind": "fundus", "sources": 6, "seed": 2, "domain": "c", "size_px": 128}
    assert synth_digest_key(given) == "f5bc97e17373f266"
