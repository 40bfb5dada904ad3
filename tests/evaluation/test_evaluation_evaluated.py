"""Scores are whole or absent, and named by what determines them; choices are made on val alone."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.evaluation.evaluated import POOLED, Evaluated, read_evaluated, write_evaluated
from vesselflow.evaluation.selection import choose_epoch, choose_point
from vesselflow.metrics import METRICS
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.runs import protocols
from vesselflow.runs.domains import make_domain
from vesselflow.runs.evaluations import Evaluation
from vesselflow.runs.protocols import Protocol

SCORES = Evaluated(
    0.25, (("s1", "dice", 0.5), ("s1", "roc_auc", math.nan), (POOLED, "dice", 1 / 3))
)


def test_scores_come_back_as_they_were(tmp_path):
    path = tmp_path / "x.parquet"
    write_evaluated(path, SCORES)
    assert cases.differences(read_evaluated(path).rows, SCORES.rows) == []
    assert read_evaluated(path).threshold_logit == SCORES.threshold_logit
    # NaN is a value, not a missing one.
    assert pq.ParquetFile(path).read().column("value").null_count == 0
    assert SCORES.value(POOLED, "dice") == 1 / 3
    with pytest.raises(KeyError):
        SCORES.value("s1", "iou")


@pytest.mark.parametrize(
    ("logit", "probability"),
    [
        (math.nan, math.nan),
        (-math.inf, 0.0),
        (math.inf, 1.0),
        (0.0, 0.5),
        (math.log(3), 0.75),
        (-math.log(3), 0.25),
        (800.0, 1.0),
        (-800.0, 0.0),
    ],
)
def test_a_threshold_comes_back_as_logit_and_as_probability(tmp_path, logit, probability):
    write_evaluated(tmp_path / "x.parquet", Evaluated(logit, SCORES.rows))
    found = read_evaluated(tmp_path / "x.parquet")
    assert found.threshold_logit == pytest.approx(logit, abs=0, nan_ok=True)
    assert found.threshold == pytest.approx(probability, abs=1e-15, nan_ok=True)


def test_folders_that_look_like_partitions_do_not_matter(tmp_path):
    path = tmp_path / "metric=dice" / "value=3" / "x.parquet"
    write_evaluated(path, SCORES)
    assert read_evaluated(path).rows[0] == ("s1", "dice", 0.5)


def test_equal_scores_are_equal_files(tmp_path):
    for name in ("x", "y"):
        write_evaluated(tmp_path / name, SCORES)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_absent_scores_are_none(tmp_path):
    assert read_evaluated(tmp_path / "nothing.parquet") is None
    assert read_evaluated(tmp_path) is None


def test_torn_scores_are_none_wherever_they_are_cut(tmp_path):
    path = tmp_path / "x.parquet"
    write_evaluated(path, SCORES)
    content = path.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        assert read_evaluated(path) is None, length


def test_a_changed_value_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    rows = tuple((f"s{n}", "dice", 0.123456789 + n) for n in range(50))
    write_evaluated(path, Evaluated(0.5, rows))
    content = bytearray(path.read_bytes())
    # The first 400 bytes are pages of ids and metrics; what is there has a checksum or a header.
    for place in range(4, 400, 13):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        found = read_evaluated(path)
        assert found is None or found.rows == rows, place


@pytest.mark.parametrize(
    "columns",
    [
        {"source_id": ["s"], "metric": ["dice"], "value": [0.5]},
        {"source_id": ["s"], "metric": ["dice"], "value": [0.5], "threshold": [0.5]},
        {"source_id": ["s"], "metric": ["dice"], "value": ["0.5"], "threshold_logit": [0.5]},
    ],
)
def test_a_foreign_table_is_none(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert read_evaluated(tmp_path / "x.parquet") is None


# -- names -------------------------------------------------------------------------------------

DIGESTS = [f"content-{n}" for n in range(6)]
DOMAIN = make_domain("a", "test", "a", [1, 2], DIGESTS)


def _name(run="r", epoch=3, domain=DOMAIN, **changes) -> str:
    protocol = Protocol.of(cases.tiny_experiment(**changes))
    return Evaluation(run, epoch, domain, protocol).name


def test_an_evaluation_is_named_by_all_that_changes_it(monkeypatch):
    names = [
        _name(),
        _name(run="q"),
        _name(epoch=4),
        _name(domain=make_domain("a", "test", "a", [1, 3], DIGESTS)),
        _name(domain=make_domain("a", "test", "a", [1, 2], [*DIGESTS[:2], "mended", *DIGESTS[3:]])),
        _name(score={"tta": "flips"}),
        _name(score={"threshold_metric": "iou"}),
        _name(score={"threshold": "half"}),
    ]
    # Mended code that scores, and a mended metric where it chooses the threshold.
    monkeypatch.setattr(protocols, "SCORER", protocols.SCORER + 1)
    names.append(_name())
    monkeypatch.setitem(vars(METRICS.metric("dice")), "version", 2)
    names.append(_name())
    monkeypatch.setitem(vars(THRESHOLDS.part("best")), "version", 3)
    names.append(_name())
    assert len(set(names)) == len(names)


def test_an_evaluation_is_not_named_by_what_does_not_change_it():
    assert _name(domain=make_domain("other name", "ood", "other", [2, 1], DIGESTS)) == _name()
    # Of sources that do not belong to it, a domain knows nothing.
    grown = make_domain("a", "test", "a", [1, 2], [*DIGESTS, "one more"])
    assert _name(domain=grown) == _name()
    # What training depends on is in the run's name already.
    assert _name(score={"epochs": "all"}, train={"epochs": 9}) == _name()


# -- choices -----------------------------------------------------------------------------------

scores = st.floats(0, 1) | st.just(math.nan)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(1, 30), scores, min_size=1))
def test_the_best_epoch_is_the_earliest_of_equals(values):
    chosen = choose_epoch(values, cases.OBJECTIVE)
    defined = {epoch: v for epoch, v in values.items() if not math.isnan(v)}
    if not defined:
        assert chosen == max(values)
        return
    best = max(defined.values())
    assert chosen == min(epoch for epoch, v in defined.items() if v == best)
    # The order in which they were scored does not matter.
    assert choose_epoch(dict(reversed(values.items())), cases.OBJECTIVE) == chosen


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), scores))
def test_the_best_point_is_the_first_of_equals(values):
    chosen = choose_point(values, cases.OBJECTIVE)
    defined = {name: v for name, v in values.items() if not math.isnan(v)}
    best = max(defined.values(), default=None)
    assert chosen == next((name for name, v in defined.items() if v == best), None)
