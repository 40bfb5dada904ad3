"""Figures of grids with several axes: nothing overlaps, nothing is lost, a reader finds the way."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.transforms import Bbox
from reporting_examples import write_grid

from vesselflow.reporting.figures.by_axis import draw_axis, plan_axis
from vesselflow.reporting.figures.curves import draw_curves
from vesselflow.reporting.figures.drawn import _file_names
from vesselflow.reporting.figures.in_against_out import draw_gap
from vesselflow.reporting.figures.layout import (
    fitting_ticks,
    same_span,
)
from vesselflow.reporting.figures.look import MOST_ENTRIES, Look, choose_axes
from vesselflow.reporting.figures.number_line import NumberLine
from vesselflow.reporting.figures.settings import Settings
from vesselflow.reporting.overlays import draw_predictions
from vesselflow.reporting.style import (
    shorten,
    shorten_apart,
    styled,
    text_width,
)
from vesselflow.reporting.sweep_tables import load_tables

INSIDE = (("val", "a"), ("test", "a"))
FAR = tuple(("ood", f"a-rather-long-domain-name-{index}") for index in range(9))
LOSSES = ["combined", "fuzzy", "tversky", "bce"]
WHEN = {"loss.beta": {"loss.name": ["combined", "fuzzy"]}}
LONG = [f"timm-efficientnet-b{index}-noisy-student-of-a-very-long-name" for index in range(48)]
COSINE = {"schedule": "cosine", "from": 0.2, "to": 0.8}
THREE = {"loss.name": LOSSES[:2], "loss.beta": [0.2, 0.8], "train.ema": [None, 0.99]}
FULL = {
    "loss.name": LOSSES,
    "loss.beta": [i / 10 for i in range(11)],
    "train.ema": [None, 0.99],
}
#: Name -> arguments of `write_grid`: 1, 3, 8 and 48 points, with what has been seen to go wrong.
GRIDS = {
    "1 point": {"axes": {"loss.beta": [0.5]}},
    "1 point of 3 axes": {"axes": {k: v[:1] for k, v in THREE.items()}, "domains": INSIDE},
    "3 points": {"axes": {"loss.beta": [0, 0.5, 1]}},
    "3 points, 1 epoch": {"axes": {"loss.name": LOSSES[:3]}, "epochs": 1, "seeds": 1},
    "8 points": {"axes": THREE, "scored": [8]},
    "8 points, 1 epoch, no OOD": {"axes": THREE, "epochs": 1, "domains": INSIDE},
    "48 points": {"axes": FULL, "when": WHEN, "moving": True},
    "48 long names": {"axes": {"model.encoder": LONG}, "domains": INSIDE},
    "48 numbers": {"axes": {"train.lr": [float(f"{1e-5 * 1.25**i:.4g}") for i in range(48)]}},
    "mixed values": {
        "axes": {"loss.beta": [None, 0.5, "auto", COSINE], "train.decay": [0, 1e-5, 1e-2, None]}
    },
    "5 axes": {"axes": {**THREE, "model.encoder": LONG[:2], "train.lr": [1e-3, 1e-2]}},
    "many domains": {"axes": {"loss.name": LOSSES[:2]}, "domains": INSIDE + FAR},
    "random draws": {
        "axes": {"train.lr": [1e-4, 1e-2], "loss.beta": [0.0, 1.0], "loss.name": LOSSES[:2]},
        "drawn": 12,
    },
}


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """The tables of each grid, made once."""
    made = {}

    def of(name):
        if name not in made:
            arguments = dict(GRIDS[name])
            folder = tmp_path_factory.mktemp("grid")
            made[name] = load_tables(write_grid(folder, arguments.pop("axes"), **arguments))
        return made[name]

    return of


def grid(tmp_path, axes, **arguments):
    return load_tables(write_grid(tmp_path, axes, **arguments))


def laid_out(draw, *arguments):
    """The figure as it is laid out, with its numbers; None twice where there is none."""
    with styled():
        result = draw(*arguments)
        if result is None:
            return None, None
        figure, numbers = result
        figure.canvas.draw()
        # Closed for pyplot only: with its canvas the figure keeps its boxes.
        canvas = figure.canvas
        plt.close(figure)
        figure.set_canvas(canvas)
    return figure, numbers


@pytest.fixture(scope="module")
def figures(grids):
    """Figures of `grids`, each drawn once."""
    made = {}

    def of(name, draw, *more):
        key = (name, draw.__name__, *more)
        if key not in made:
            made[key] = laid_out(draw, grids(name), *more)
        return made[key]

    return of


def shown_axes(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def labels(figure):
    """Every title, tick, axis label and remark of a figure with its box."""
    texts = [figure._supylabel, figure._suptitle]
    for axes in shown_axes(figure):
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        low, high = sorted(axes.get_xlim())
        texts += [
            tick.label1
            for tick in axes.xaxis.get_major_ticks()
            if low - 1e-9 <= tick.get_loc() <= high + 1e-9
        ]
        low, high = sorted(axes.get_ylim())
        texts += [
            tick.label1
            for tick in axes.yaxis.get_major_ticks()
            if low - 1e-9 <= tick.get_loc() <= high + 1e-9 and tick.label1.get_visible()
        ]
        texts += [text for text in axes.texts if "val" in text.get_text()]
    renderer = figure.canvas.get_renderer()
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in texts
        if text is not None and text.get_text() and text.get_visible()
    ]


def overlap(one, other):
    """Whether two boxes share more than a pixel."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > 1 and height > 1


def check_layout(figure):
    boxes = labels(figure)
    for (one, box), (other, box2) in itertools.combinations(boxes, 2):
        assert not overlap(box, box2), (one, other)
    whole = figure.bbox
    panels = shown_axes(figure)
    places = [axes.get_window_extent() for axes in panels]
    columns = len({round(place.x0) for place in places})
    rows = len({round(place.y0) for place in places})
    for axes, place in zip(panels, places, strict=True):
        assert place.width * columns > 0.55 * whole.width
        assert place.height * rows > 0.4 * whole.height
        title = axes._left_title
        if title.get_text():
            box = title.get_window_extent()
            assert box.x1 <= whole.x1
            assert box.width <= place.width + 0.5 * figure.dpi
    assert len(panels) <= 9
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.height < whole.height / 3
        assert box.x0 >= 0
        assert box.x1 <= whole.x1
        assert box.y0 >= max(place.y1 for place in places)
        assert len(legend.get_texts()) <= MOST_ENTRIES
        words = [text.get_text() for text in legend.get_texts()]
        assert len(set(words)) == len(words)
        assert not any(overlap(box, other) for _, other in boxes)


@pytest.mark.parametrize("name", GRIDS)
def test_nothing_overlaps_in_any_figure(grids, figures, name):
    jobs = [(draw_axis, axis) for axis in grids(name).axes]
    # Drawing takes time: further axes are seen in the largest grid alone.
    jobs = [*jobs[: 3 if name == "48 points" else 2], (draw_curves,), (draw_gap,)]
    for draw, *more in jobs:
        figure, numbers = figures(name, draw, *more)
        if figure is not None:
            assert not numbers.empty
            check_layout(figure)


def test_the_check_sees_what_overlaps():
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(3, 2), layout="constrained")
        axes[0].set_title("a title that is far too long for its panel")
        axes[1].set_title("another one")
        figure.canvas.draw()
        with pytest.raises(AssertionError):
            check_layout(figure)
        plt.close(figure)
    assert overlap(Bbox([[0, 0], [4, 4]]), Bbox([[2, 2], [6, 6]]))
    assert not overlap(Bbox([[0, 0], [4, 4]]), Bbox([[3.5, 0], [6, 4]]))


def test_losses_share_a_panel_and_one_without_beta_stands_beside_the_line(figures, grids):
    tables = grids("48 points")
    figure, numbers = figures("48 points", draw_axis, "loss.beta")
    panels = shown_axes(figure)
    titles = [axes.get_title("left") for axes in panels]
    assert titles == [
        f"{domain}, ema {ema}"
        for ema in ("null", "0.99")
        for domain in ("a test", "b (OOD)", "c (OOD)")
    ]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == [*LOSSES, "chosen on val"]
    for axes in panels:
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert ticks[0] == "no beta"
        place = axes.get_xticks()[0]
        assert place > 1.0
        # Two losses with a line of 11 betas, two that stand at the side.
        lines = [line for line in axes.lines if len(line.get_xdata()) == 11]
        assert len(lines) == 2
        aside = [c for c in axes.containers if c.lines[0].get_xdata()[0] > 1.0]
        assert len(aside) == 2
        middle = np.mean([c.lines[0].get_xdata()[0] for c in aside])
        assert middle == pytest.approx(place)
    apart = numbers[(numbers["loss.beta"] == "no beta") & (numbers["kind"] == "mean")]
    assert set(apart["others"]) == {
        f"{loss}, ema {ema}" for loss in LOSSES[2:] for ema in ("null", "0.99")
    }
    # Validation is not drawn here; its numbers are not lost.
    assert "validation: see the CSV" in figure.legends[0].get_title().get_text()
    assert set(numbers["role"]) == {"val", "test", "ood"}
    assert numbers["point"].nunique() == len(tables.order) == 48


def test_panels_of_a_domain_share_limits_and_all_share_a_span(figures):
    figure, _ = figures("48 points", draw_axis, "loss.beta")
    limits = np.array([axes.get_ylim() for axes in shown_axes(figure)])
    assert limits[:3].tolist() == limits[3:].tolist()
    spans = limits[:, 1] - limits[:, 0]
    assert np.ptp(spans) < 1e-9


def test_null_is_a_value_and_not_the_same_as_an_axis_that_does_not_apply(tmp_path):
    axes = {"loss.name": ["fuzzy", "bce"], "loss.beta": [None, 0.25, 0.5]}
    tables = grid(tmp_path, axes, when={"loss.beta": {"loss.name": ["fuzzy"]}})
    settings = Settings(tables)
    assert settings.states("loss.beta") == ("0.25", "0.5", "null", None)
    assert [settings.label("loss.beta", state) for state in settings.states("loss.beta")] == [
        "0.25",
        "0.5",
        "null",
        "no beta",
    ]
    line = NumberLine(settings, "loss.beta", 3.0)
    assert 0.5 < line.place("null") < line.place(None)
    figure, numbers = laid_out(draw_axis, tables, "loss.beta")
    ticks = {label.get_text() for label in shown_axes(figure)[0].get_xticklabels()}
    assert ticks == {"0.25", "0.5", "null", "no beta"}
    assert set(numbers["loss.beta"].astype(str)) == ticks


def test_words_keep_the_order_of_the_grid_and_numbers_their_own(tmp_path):
    tables = grid(tmp_path, {"loss.name": ["z", "a"], "x.y": [3, 1, 2], "train.ema": [None, 0.9]})
    settings = Settings(tables)
    assert settings.states("loss.name") == ('"z"', '"a"')
    assert settings.states("x.y") == ("1", "2", "3")
    # One number beside null is a choice: as it was written.
    assert settings.states("train.ema") == ("null", "0.9")
    assert settings.text(tables.order[0], settings.axes) == "z, y 3, ema null"


@pytest.mark.parametrize(
    ("values", "numeric"),
    [
        ([0, 0.5, 1], True),
        ([0.5, None, 1], True),
        ([0.5, None], False),
        ([True, False], False),
        (["a", 1, 2], False),
        ([COSINE, 0.2, 0.5], False),
    ],
)
def test_which_axes_are_lines(tmp_path, values, numeric):
    tables = grid(tmp_path, {"x.y": values}, seeds=1, epochs=1)
    assert Settings(tables).numeric("x.y") is numeric


@pytest.mark.parametrize("epochs", [1, 8])
def test_single_scored_epoch_is_visible(tmp_path, epochs):
    tables = grid(tmp_path, {"loss.beta": [0, 0.5]}, seeds=1, epochs=epochs, scored=[epochs])
    figure, _ = laid_out(draw_curves, tables)
    loss, dice = shown_axes(figure)
    single = [line for line in dice.lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in single] == [[epochs], [epochs]]
    assert all(line.get_markersize() >= 4 for line in single)
    assert loss.get_xlim() == dice.get_xlim()
    assert all(tick == int(tick) for tick in dice.get_xticks())


def test_lone_epoch_between_undefined_ones_is_visible(tmp_path):
    sweep = write_grid(tmp_path, {"loss.beta": [0, 0.5]}, seeds=1, epochs=20)
    path = sweep / "tables" / "epochs.parquet"
    curves = pd.read_parquet(path)
    curves.loc[(curves["name"] == "val/dice") & (curves["epoch"] != 7), "value"] = math.nan
    curves.to_parquet(path)
    figure, _ = laid_out(draw_curves, load_tables(sweep))
    loss, dice = shown_axes(figure)
    assert sum(line.get_marker() == "o" for line in dice.lines) == 2
    assert not any(line.get_marker() == "o" for line in loss.lines)


def test_chosen_point_is_ringed_once_in_each_panel(figures):
    for draw, *more in ((draw_axis, "loss.beta"), (draw_axis, "loss.name"), (draw_gap,)):
        figure, _ = figures("48 points", draw, *more)
        rings = [
            sum(line.get_markersize() in (10, 11) for line in axes.lines)
            for axes in shown_axes(figure)
        ]
        entries = [text.get_text() for text in figure.legends[0].get_texts()]
        # With a panel per EMA, those of one of them hold the chosen point.
        assert sum(rings) == {6: 3, 4: 4, 2: 2}[len(rings)]
        assert max(rings) == 1
        assert "chosen on val" in entries


def test_what_cannot_be_told_apart_is_held_at_the_chosen_points_values(grids):
    tables = grids("5 axes")
    settings = Settings(tables)
    plan = plan_axis(settings, "loss.beta")
    assert len(plan.panels) <= 6
    held = next(word for word in plan.words if word.startswith("held as in the chosen point"))
    chosen = settings.state(tables.selected, "model.encoder")
    assert settings.label("model.encoder", chosen) in held
    drawn_points = {point for panel in plan.panels for one in panel.series for point in one.points}
    assert {settings.state(point, "model.encoder") for point in drawn_points} == {chosen}
    assert tables.selected in drawn_points


def test_holding_an_axis_loses_no_point_without_it(tmp_path):
    axes = {
        "train.lr": [1e-3, 1e-2],
        "a.name": ["p", "q"],
        "loss.name": ["fuzzy", "bce"],
        "loss.gamma": [f"g{index}" for index in range(9)],
    }
    tables = grid(tmp_path, axes, when={"loss.gamma": {"loss.name": ["fuzzy"]}}, seeds=1, epochs=1)
    settings = Settings(tables)
    plan = plan_axis(settings, "train.lr")
    points = {point for panel in plan.panels for one in panel.series for point in one.points}
    assert {settings.state(point, "loss.name") for point in points} == {'"fuzzy"', '"bce"'}


def test_random_draws_are_dots_without_lines(figures):
    figure, _ = figures("random draws", draw_axis, "train.lr")
    (axes,) = shown_axes(figure)
    assert not any(
        line.get_linestyle() not in ("None", "none", "") and len(line.get_xdata()) > 2
        for line in axes.lines
    )
    assert "a dot per point" in figure.legends[0].get_title().get_text()


def test_more_values_than_colours_are_counted(grids):
    tables = grids("48 long names")
    settings = Settings(tables)
    look = Look(settings, "model.encoder")
    entries = [str(entry.get_label()) for entry in look.entries("line", tables.order)]
    assert entries[-1] == "40 others"
    assert len(entries) == 9
    assert look.colour(settings.ranked[0]) != look.colour(settings.ranked[-1])
    numbers = Settings(grids("48 numbers"))
    entries = Look(numbers, "train.lr").entries("line", numbers.tables.order)
    assert [str(entry.get_label()) for entry in entries][-1] == "and 42 between"


def test_same_state_same_colour_in_every_figure(grids):
    settings = Settings(grids("48 points"))
    by_beta = choose_axes(settings, ["loss.name", "train.ema"])
    overall = choose_axes(settings, settings.axes)
    assert by_beta == ("loss.name", None, ["train.ema"])
    assert overall == ("loss.name", "loss.beta", ["train.ema"])
    point = next(p for p in settings.tables.order if settings.state(p, "loss.name") == '"bce"')
    assert Look(settings, *by_beta[:2]).colour(point) == Look(settings, *overall[:2]).colour(point)


def test_shades_run_from_light_to_dark(grids):
    settings = Settings(grids("48 points"))
    look = Look(settings, "loss.name", "loss.beta")
    fuzzy = [p for p in settings.tables.order if settings.state(p, "loss.name") == '"fuzzy"']
    light = {
        settings.numbers("loss.beta")[settings.state(p, "loss.beta")]: sum(look.colour(p))
        for p in fuzzy
    }
    in_order = [light[beta] for beta in sorted(light)]
    assert in_order == sorted(in_order, reverse=True)
    assert len(set(in_order)) == 11
    assert look.words() == ["light to dark: beta 0 to 1"]


def test_number_line_of_decades_has_room_for_zero(tmp_path):
    tables = grid(tmp_path, {"train.decay": [1e-2, 0, 1e-5, 1e-4]}, seeds=1, epochs=1)
    line = NumberLine(Settings(tables), "train.decay", 3.0)
    steps = np.diff(list(line.numbers.values()))
    assert list(line.numbers) == ["0", "1e-05", "0.0001", "0.01"]
    assert steps.tolist() == pytest.approx([1.5, 1, 2])


def test_long_texts_keep_both_ends_and_stay_different():
    assert shorten("short", 3, 8) == "short"
    text = shorten("a very long name that ends in seven", 1.2, 8)
    assert text.startswith("a")
    assert text.endswith("seven")
    assert "…" in text
    assert text_width(text, 8) <= 1.2
    names = shorten_apart(LONG, 1.5, 8)
    assert len(set(names)) == 48
    assert all(text_width(name, 8) <= 1.5 for name in names)
    assert names[7].startswith("…7")
    same = shorten_apart(["x" * 80 + "a" * 5 + "y" * 80, "x" * 80 + "b" * 5 + "y" * 80], 1.2, 8)
    assert len(set(same)) == 2


def test_ticks_are_left_out_rather_than_laid_over_each_other():
    places = [0.0, 0.1, 0.2, 0.9, 1.0]
    words = ["0", "0.1", "0.2", "0.9", "1"]
    assert fitting_ticks(places, words, 0.1) == [0, 1, 2, 3, 4]
    # The ends stay, then what fits between them: 0.1 lies too close to 0, 0.9 to 1.
    assert fitting_ticks(places, words, 0.8) == [0, 2, 4]
    assert fitting_ticks(places, words, 10.0) == [4]


def test_same_span_is_around_each_groups_own_values():
    (low, high), (low2, high2), empty = same_span([[0.7, 0.8], [0.4], [math.nan]])
    assert high - low == pytest.approx(high2 - low2) == pytest.approx(0.116)
    assert (low2 + high2) / 2 == pytest.approx(0.4)
    assert empty == (0.0, 1.0)


def test_file_names_of_axes_are_apart():
    names = _file_names(["a/b", "a b", "A_B", "x" * 300, "loss.beta"], "dice")
    assert names["loss.beta"] == "dice_by_loss.beta"
    assert names["a/b"] == "dice_by_a_b"
    assert len({name.lower() for name in names.values()}) == 5
    assert max(len(name) for name in names.values()) < 120


def test_unfinished_sweep_is_drawn_as_far_as_it_is(tmp_path):
    sweep = write_grid(tmp_path, {"loss.name": LOSSES, "loss.beta": [0, 1]}, seeds=1, epochs=1)
    path = sweep / "tables" / "points.parquet"
    points = pd.read_parquet(path)
    points["selected"] = False
    points.loc[points["index"] > 1, ["mean", "std"]] = math.nan
    points.to_parquet(path)
    tables = load_tables(sweep)
    for draw, *more in ((draw_axis, "loss.beta"), (draw_axis, "loss.name"), (draw_gap,)):
        figure, numbers = laid_out(draw, tables, *more)
        entries = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "chosen on val" not in entries
        assert numbers["point"].nunique() == 8
        check_layout(figure)


def test_predictions_of_long_names_and_many_domains(tmp_path):
    names = [f"a-rather-long-domain-name-of-an-archive-{index}" for index in range(8)]
    sweep = write_grid(tmp_path, {"model.encoder": LONG[:2]}, seeds=1, epochs=1)
    tables = load_tables(sweep)
    run = tables.complete.loc[tables.complete["point"] == tables.selected, "run_id"].iloc[0]
    folder = tmp_path / "runs" / run / "previews"
    folder.mkdir(parents=True)
    flat = np.zeros((40, 60), np.uint8)
    for (index, name), kind in itertools.product(enumerate(names), ("best", "worst")):
        np.savez_compressed(
            folder / f"ood_{index}_{kind}_s.npz", image=np.zeros((40, 60, 3), np.uint8),
            probability=flat, target=flat, fov=flat + 1, threshold=0.5, value=0.5, metric="dice",
            domain=name, role="ood",
            source_id="an_archive_of_scans/a_patient/with_a_long_name/left_eye_0001",
        )  # fmt: skip
    figure, numbers = laid_out(draw_predictions, tables)
    for (one, box), (other, box2) in itertools.combinations(labels(figure), 2):
        assert not overlap(box, box2), (one, other)
    assert len(shown_axes(figure)) == 6 * 4
    assert numbers["domain"].nunique() == 8
    (legend,) = figure.legends
    assert "(of 8, the first 6)" in legend.get_title().get_text()
    assert legend.get_window_extent().width <= figure.bbox.width


def test_every_domain_has_its_numbers_even_if_not_drawn(figures):
    figure, numbers = figures("many domains", draw_gap)
    assert len(shown_axes(figure)) == 6
    assert "3 more domains: see the CSV" in figure.legends[0].get_title().get_text()
    assert numbers["domain"].nunique() == 9
