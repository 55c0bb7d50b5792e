"""Figures: what is drawn, and that all of it can be read."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from tlkit.errors import printable_line
from tlkit.evaluation.canvas import blank, draw_picture
from tlkit.evaluation.compared_figures import learning_curves
from tlkit.evaluation.figures import confusion_matrix, curves
from tlkit.evaluation.samples_figure import samples_figure
from tlkit.evaluation.tiles import (
    Tile,
    choose_indices,
    doubtful_labels,
    gradcam_sheet,
    mistake_indices,
    mistakes,
    overlay,
)
from tlkit.evidence.curve import _of_what

AWKWARD = ("a$b_{x}$", "n02085620-soft_coated_wheaten_terrier_of_Ireland", "two\nlines", "\udc80")


def history(epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "train/loss": 1 / epoch,
            "val/loss": 0.5 + 0.1 * abs(epoch - 3),
            "val/calibrated_loss": 0.4 + 0.1 * abs(epoch - 3),
            "train/accuracy": 1 - 0.5 / epoch,
            "val/accuracy": 0.9 - 0.01 * epoch,
            "lr/head": 3e-4 / epoch,
            "lr/backbone": 1e-5,
        }
        for epoch in range(1, epochs + 1)
    ]


def class_names(n: int) -> list[str]:
    return [*AWKWARD, *(f"wirehaired fox terrier {i}" for i in range(n))][:n]


def some_matrix(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.diag(rng.integers(50, 1000, n)) + (rng.random((n, n)) < 3 / n)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in visible(figure)]


def visible(figure: Figure) -> list[Text]:
    hidden = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            # Matplotlib keeps the labels of ticks beyond the axis and does not draw them.
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    found: list[Text] = figure.findobj(Text)
    shown = [text for text in found if text.get_visible() and text not in hidden]
    return [text for text in shown if text.get_text().strip()]


def boxes(texts: Sequence[Text]) -> np.ndarray:
    """x0, y0, x1, y1 in pixels of each text."""
    return np.array([text.get_window_extent().extents for text in texts])


def assert_legible(figure: Figure) -> None:
    """No text leaves the figure, covers another one, or is smaller than 9 pixels."""
    figure.draw_without_rendering()
    texts = visible(figure)
    x0, y0, x1, y1 = boxes(texts).T
    width, height = figure.bbox.size
    inside = (x0 >= -1) & (y0 >= -1) & (x1 <= width + 1) & (y1 <= height + 1)
    assert inside.all(), [texts[i].get_text() for i in np.flatnonzero(~inside)]
    # A pixel of slack: the boxes of neighbouring lines may touch.
    apart_x = (x0[:, None] >= x1 - 1) | (x1[:, None] <= x0 + 1)
    apart_y = (y0[:, None] >= y1 - 1) | (y1[:, None] <= y0 + 1)
    overlap = ~(apart_x | apart_y) & ~np.eye(len(texts), dtype=bool)
    assert not overlap.any(), [
        (texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(overlap)[:5]
    ]
    assert min(float(text.get_fontsize()) * figure.dpi / 72 for text in texts) >= 9


def line(figure: Figure, panel: str, label: str) -> tuple[list[float], list[float]]:
    (axes,) = (ax for ax in figure.axes if ax.get_title() == panel)
    (found,) = (one for one in axes.lines if str(one.get_label()).partition(":")[0] == label)
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


def panels(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_curves_draw_the_history() -> None:
    rows = history(5)
    figure = curves(rows, "head: curves", best_epoch=3)
    assert panels(figure) == ["loss", "accuracy", "learning rate"]
    for panel, label, key in (
        ("loss", "train", "train/loss"),
        ("loss", "validation", "val/loss"),
        ("loss", "validation, calibrated", "val/calibrated_loss"),
        ("accuracy", "train", "train/accuracy"),
        ("accuracy", "validation", "val/accuracy"),
        ("learning rate", "head", "lr/head"),
        ("learning rate", "backbone", "lr/backbone"),
    ):
        assert line(figure, panel, label) == ([1, 2, 3, 4, 5], [row[key] for row in rows])
    assert figure.axes[2].get_yscale() == "log"
    assert "head: curves" in words(figure)


def between(*losses: float) -> list[dict[str, float]]:
    last = len(losses) - 1
    return [
        {"interpolation": place / last, "val/loss": 2 * loss, "val/calibrated_loss": loss}
        for place, loss in enumerate(losses)
    ]


def test_curves_draw_the_line_on_which_the_weights_were_chosen() -> None:
    figure = curves(history(5), "finetune: training", 3, between(0.4, 0.25, 0.3))
    assert panels(figure)[3:] == ["loss between"]
    assert line(figure, "loss between", "validation, calibrated") == ([0, 0.5, 1], [0.4, 0.25, 0.3])
    assert line(figure, "loss between", "validation") == ([0, 0.5, 1], [0.8, 0.5, 0.6])
    assert {"kept: 0.5", "validation, calibrated: 0.250", "validation: 0.500"} <= set(words(figure))
    assert_legible(figure)
    assert "kept: 1" in words(curves(history(5), "t", 3, between(0.4, 0.3, 0.3)))


def marked_epochs(figure: Figure) -> set[float]:
    dotted = [drawn for ax in figure.axes for drawn in ax.lines if drawn.get_linestyle() == ":"]
    return {float(np.asarray(drawn.get_xdata())[0]) for drawn in dotted}


def test_the_best_epoch_is_marked() -> None:
    figure = curves(history(5), "t", best_epoch=2)
    assert marked_epochs(figure) == {2}
    assert "validation: 88.0 %" in words(figure)
    assert "validation: 0.600" in words(figure)


def test_a_loss_that_moves_little_is_written_in_full() -> None:
    losses = {"train/loss": 1.0941, "val/loss": 1.0942, "val/calibrated_loss": 1.0942}
    rows = [{**row, **losses} for row in history(5)]
    figure = curves(rows, "t", best_epoch=3)
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


def test_near_counts_of_a_learning_curve_share_a_label() -> None:
    points = [(count, 0.5, 0.4, 0.6) for count in (12, 13, 50, 60, 1000)]
    figure = learning_curves({"head": points}, _of_what(seeds=5))
    assert_legible(figure)
    assert {"13", "60", "1,000"} <= set(words(figure))
    assert {"12", "13"} <= set(words(learning_curves({"head": points[:2]}, "")))
    assert "12" in words(learning_curves({"head": points[:1]}, ""))


@pytest.mark.parametrize("epochs", [1, 12, 100])
def test_curves_are_legible(epochs: int) -> None:
    figure = curves(history(epochs), "a rather long title of a run " * 5, best_epoch=1)
    assert_legible(figure)
    markers = {drawn.get_marker() for ax in figure.axes for drawn in ax.lines[:2]}
    assert ("s" in markers) == (epochs < 100)


@pytest.mark.parametrize("classes", [2, 3, 10, 20, 21, 100])
def test_confusion_matrix_is_legible(classes: int) -> None:
    figure = confusion_matrix(some_matrix(classes), class_names(classes), "t")
    assert_legible(figure)
    rows = [text for text in words(figure) if text.startswith("wirehaired fox terrier")]
    assert len(rows) >= 2 * (classes - len(AWKWARD))


def drawn_rates(figure: Figure) -> np.ma.MaskedArray:
    return np.ma.masked_array(figure.axes[0].images[0].get_array())


def test_hebrew_and_arabic_stand_where_other_names_would() -> None:
    matrix = np.diag(np.full(21, 7))
    matrix[0, 1] = 5
    names = ["כלב", "قط", *(f"class {i}" for i in range(19))]
    seen = words(confusion_matrix(matrix, names, "t"))
    # A left-to-right mark before a name keeps the line's direction, one after it what follows.
    hebrew, arabic = "\u200eכלב\u200e", "\u200eقط\u200e"
    assert f"{hebrew} (12)" in seen
    assert any(f"{hebrew} → {arabic} (5)" in text for text in seen)
    sheet = words(gradcam_sheet([tile("כלב", "cat", 0.8, heat=True)], "t", of_first=True))
    assert "of several models together; each map is of the first of them" in sheet
    assert f"{hebrew} → cat (80.0 %)" in sheet[sheet.index("✗ ") + 1]


def test_a_line_keeps_what_joins_letters_and_nothing_that_reorders_or_breaks_it() -> None:
    assert printable_line("می\u200cشود") == "می\u200cشود"
    assert printable_line("🐱\u200d👤") == "🐱\u200d👤"
    assert printable_line("a\u202eb\u2067c\ud800d\x00e\n f") == "a?b?c?d?e f"


def test_letters_without_a_font_are_told_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from tlkit.evaluation import canvas\n"
        "for name in ('\ua9b2\ua98f', 'cat', '\ua990\ua9b2'):\n"
        "    figure = canvas.blank(2, 2)\n"
        "    figure.text(0, 0, canvas.shorten(name, 1, 9), **canvas.PLAIN)\n"
        "    canvas.save(figure, Path('figure.png'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert "drawn as boxes" in line


def test_cells_hold_counts_and_rates() -> None:
    figure = confusion_matrix(np.array([[1999, 1], [0, 3]]), ["cat", "dog"], "on the test split")
    seen = words(figure)
    assert {"1999\n>99.9 %", "1\n0.1 %", "0", "3\n100.0 %"} <= set(seen)
    assert {"cat (2000)", "dog (3)", "on the test split", "2002 of 2003 right (>99.9 %)"} <= set(
        seen
    )
    np.testing.assert_allclose(drawn_rates(figure).filled(0), [[0.9995, 0.0005], [0.0, 1.0]])


def test_many_classes_show_counts_and_the_most_frequent_confusions() -> None:
    matrix = np.diag(np.full(30, 7))
    matrix[4, 9], matrix[2, 0] = 5, 3
    names = [f"class {i}" for i in range(30)]
    seen = words(confusion_matrix(matrix, names, "t"))
    assert seen.count("7") == 30
    assert {"5", "3"} <= set(seen)
    assert "0" not in seen
    assert any("class 4 → class 9 (5), class 2 → class 0 (3)" in text for text in seen)


def test_of_hundreds_of_classes_those_with_the_most_mistakes_are_shown() -> None:
    matrix = np.diag(np.full(300, 7))
    matrix[250, 9] = 5
    figure = confusion_matrix(matrix, [f"class {i}" for i in range(300)], "t")
    seen = words(figure)
    assert drawn_rates(figure).shape == (100, 100)
    assert {"class 9 (7)", "class 250 (12)", "class 0 (7)"} <= set(seen)
    assert "class 299 (7)" not in seen
    assert "shown are the 100 of 300 classes with the most mistakes" in seen
    assert any("2100 of 2105 right" in text for text in seen)
    assert any("class 250 → class 9 (5)" in text for text in seen)
    assert max(figure.get_size_inches()) < 40


def test_class_without_pictures_stays_white() -> None:
    figure = confusion_matrix(np.array([[5, 1], [0, 0]]), ["cat", "dog"], "t")
    assert drawn_rates(figure).mask.tolist() == [[False, False], [True, True]]
    assert "dog (0)" in words(figure)


def test_confusion_matrix_refuses_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) does not fit 3 classes"):
        confusion_matrix(np.eye(2, dtype=int), ["a", "b", "c"], "t")


def picture(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def tile(true: str, predicted: str, confidence: float = 0.5, *, heat: bool = False) -> Tile:
    shown = ramp() if heat else None
    return Tile(picture(), true, predicted, confidence, f"test/{true}/p{confidence}.jpg", shown)


def pictures_of(figure: Figure) -> list[np.ndarray]:
    return [each.get_array() for each in figure.artists if isinstance(each, BboxImage)]


def test_a_picture_stands_upright_in_the_corner_it_is_given_and_keeps_its_shape() -> None:
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], dtype=np.uint8)
    wide = corners.repeat(24, axis=0).repeat(48, axis=1)
    figure = blank(3, 2)
    draw_picture(figure, wide, (0.5, 0.25), 1.0, frame="black", line=2)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # 240 rows of 360 at 120 an inch
    # 1 inch wide and half an inch high, from 0.5 to 1.5 inches and from 0.25 to 0.75 from below.
    for (row, column), colour in zip(((165, 75), (165, 165), (195, 75), (195, 165)),
                                     corners.reshape(4, 3), strict=True):  # fmt: skip
        np.testing.assert_array_equal(drawn[row, column], colour)
    np.testing.assert_array_equal(drawn[[180, 180, 150, 210], [60, 179, 120, 120]], 0)
    outside = drawn[[180, 180, 145, 215], [55, 185, 120, 120]]
    np.testing.assert_array_equal(outside, 255)


def test_a_picture_that_is_made_smaller_loses_no_pixels() -> None:
    fine = np.indices((336, 336)).sum(axis=0) % 2 * np.uint8(255)
    figure = blank(2, 2)
    draw_picture(figure, np.stack([fine] * 3, axis=2).astype(np.uint8), (0.5, 0.5), 1.0)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[70:170, 70:170, 0]
    assert 120 <= drawn.min() <= drawn.max() <= 135


def test_a_tall_picture_is_as_high_as_its_square() -> None:
    figure = blank(2, 2)
    draw_picture(figure, np.zeros((40, 10, 3), dtype=np.uint8), (0.5, 0.5), 1.0)
    figure.canvas.draw()
    dark = np.asarray(figure.canvas.buffer_rgba())[..., 0] == 0
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert (rows[0], rows[-1]) == (60, 179)
    assert (columns[0], columns[-1]) == (60, 89)


@pytest.mark.parametrize(("shown", "classes"), [(1, 1), (10, 12)])
def test_samples_have_a_row_a_class_and_the_title_says_what_is_hidden(
    shown: int, classes: int
) -> None:
    names = class_names(shown)
    renditions = [[picture(), picture(), picture()]] * 2
    figure = samples_figure(dict.fromkeys(names, renditions), classes)
    assert len(pictures_of(figure)) == 6 * shown
    seen = words(figure)
    assert seen.count("plain") == 2
    assert seen.count("view 1") == 2
    assert any("the first 10 of 12 classes" in text for text in seen) == (shown < classes)
    ends = [f"terrier {i}" for i in range(shown - len(AWKWARD))]
    assert [text[-9:] for text in seen if "terrier " in text[-9:]] == ends
    assert_legible(figure)


def test_mistakes_stand_in_falling_confidence_with_their_captions() -> None:
    tiles = [tile("cat", "dog", 0.6), tile("dog", "cat", 0.99), tile("cat", "dog", 0.7)]
    figure = mistakes(tiles, "t", wrong=7, total=500)
    seen = words(figure)
    assert "the 3 most confident of 7 mistakes on 500 pictures" in seen
    captions = seen[seen.index("true: ") :]
    assert captions[:6] == ["true: ", "dog", "predicted: ", "cat", "99.0 %  ", "p0.99.jpg"]
    assert [text for text in captions if text.startswith("p0")] == [
        "p0.99.jpg",
        "p0.7.jpg",
        "p0.6.jpg",
    ]
    assert len(pictures_of(figure)) == 3


def test_no_mistakes_is_said() -> None:
    figure = mistakes([], "t", wrong=0, total=200)
    assert "no mistakes on 200 pictures" in words(figure)
    assert pictures_of(figure) == []
    assert_legible(figure)


def test_doubtful_labels_stand_in_the_order_given_with_their_paths() -> None:
    tiles = [replace(tile("cat", "dog", 0.6), path="train/cat/a.jpg"), tile("dog", "cat", 0.9)]
    figure = doubtful_labels(tiles, "t", doubted=7, total=500)
    seen = words(figure)
    assert "7 doubtful labels on 500 pictures, the 2 most doubtful" in seen
    captions = seen[seen.index("label: ") :]
    assert captions[:4] == ["label: ", "cat", "looks like: ", "dog"]
    assert "train/cat/a.jpg" in captions
    assert len(pictures_of(figure)) == 2
    assert "doubtful labels on 9 pictures: 2, the most doubtful first" in words(
        doubtful_labels(tiles, "t", doubted=2, total=9)
    )
    some = words(doubtful_labels(tiles, "t", doubted=20, total=90, groups=3))
    assert "doubtful labels on 90 pictures: 20, one shown of 2 of 3 groups" in some
    every = words(doubtful_labels(tiles, "t", doubted=20, total=90, groups=2))
    assert "doubtful labels on 90 pictures: 20, one shown of 2 groups" in every
    none = doubtful_labels([], "t", doubted=0, total=200)
    assert "no doubtful label on 200 pictures" in words(none)
    assert_legible(none)


def test_gradcam_sheet_shows_picture_and_overlay_and_marks_mistakes_by_a_symbol() -> None:
    tiles = [tile("cat", "dog", 0.8, heat=True), tile("dog", "dog", 0.9, heat=True)]
    figure = gradcam_sheet(tiles, "t")
    left, right, *_ = pictures_of(figure)
    np.testing.assert_array_equal(left, picture())
    np.testing.assert_array_equal(right, overlay(picture(), ramp()))
    seen = words(figure)
    frames = [each.get_linewidth() for each in figure.artists if isinstance(each, Rectangle)]
    assert min(frames[:2]) > max(frames[2:])  # of the mistake, and of the other
    assert seen[seen.index("✗ ") + 1] == "cat → dog (80.0 %)"
    assert seen[seen.index("✓ ") + 1] == "dog → dog (90.0 %)"
    assert {"low", "high", "evidence for the predicted class"} <= set(seen)


def test_a_picture_of_unknown_class_is_not_framed_as_a_right_one() -> None:
    right = tile("dog", "dog", heat=True)
    figure = gradcam_sheet([right, replace(right, true=None)], "t")
    frames = [each.get_edgecolor() for each in figure.artists if isinstance(each, Rectangle)]
    assert len(frames) == 4
    assert frames[0] == frames[1] != frames[2] == frames[3]


def test_gradcam_sheet_says_where_there_is_no_evidence() -> None:
    cold = Tile(picture(), "cat", "dog", 0.5, "a.jpg", np.zeros((24, 32), np.float32))
    assert "no positive evidence: " in words(gradcam_sheet([cold], "t"))


def test_gradcam_sheet_needs_heat() -> None:
    with pytest.raises(ValueError, match="2 tiles: needs at least one, and a heat map for each"):
        gradcam_sheet([tile("cat", "dog", heat=True), tile("cat", "dog")], "t")
    with pytest.raises(ValueError, match="0 tiles"):
        gradcam_sheet([], "t")


@pytest.mark.parametrize("count", [1, 7])
def test_sheets_are_legible(count: int) -> None:
    names = [*AWKWARD, *AWKWARD[:-1]]
    tiles = [tile(names[i], names[(i + 1) % 7] + "!", 0.9, heat=True) for i in range(count)]
    assert_legible(mistakes(tiles, "a long title " * 9, wrong=count, total=10))
    assert_legible(gradcam_sheet(tiles, "a long title " * 9))


def luminance(colours: np.ndarray) -> np.ndarray:
    return np.asarray(colours @ np.array([0.2126, 0.7152, 0.0722]))


def test_overlay_rises_in_lightness_with_heat_and_keeps_the_picture_visible() -> None:
    flat = np.full((1, 6, 3), 128, dtype=np.uint8)
    assert (np.diff(luminance(overlay(flat, ramp(1, 6)))[0]) > 0).all()
    for level in (0.0, 0.5, 1.0):
        blended = overlay(picture(), np.full((24, 32), level, np.float32))
        assert blended.dtype == np.uint8
        likeness = np.corrcoef(luminance(blended).ravel(), luminance(picture()).ravel())
        assert likeness[0, 1] > 0.9
        assert luminance(blended).std() > 0.3 * luminance(picture()).std()


def test_overlay_refuses_another_size() -> None:
    with pytest.raises(ValueError, match=r"\(24, 31\) does not fit a picture of \(24, 32, 3\)"):
        overlay(picture(), ramp(24, 31))


def two_class(confidence_of_1: Sequence[float]) -> np.ndarray:
    ones = np.array(confidence_of_1)
    return np.stack([1 - ones, ones], axis=1)


def test_mistake_indices_are_the_most_confident_mistakes() -> None:
    probabilities = two_class([0.9, 0.4, 0.9, 0.2, 0.8])
    labels = np.array([0, 1, 0, 0, 1])
    assert mistake_indices(probabilities, labels, 10) == [0, 2, 1]
    assert mistake_indices(probabilities, labels, 2) == [0, 2]


def test_chosen_pictures_are_half_mistakes_and_span_classes_and_confidence() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(10, 0.3), 400)
    labels = probabilities.argmax(axis=1)
    wrong = rng.choice(400, 40, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 10
    chosen = choose_indices(probabilities, labels, 20)

    assert chosen[:10] == mistake_indices(probabilities, labels, 10)
    correct = chosen[10:]
    assert len(set(chosen)) == 20
    assert set(labels[correct]) == set(range(10))
    confidence = probabilities.max(axis=1)
    right = np.setdiff1d(np.arange(400), wrong)
    assert (np.diff(confidence[correct]) <= 0).all()
    # One of each tenth of the correct predictions by confidence.
    tenth = np.searchsorted(-np.sort(-confidence[right]) * -1, -confidence[correct]) // 36
    assert tenth.tolist() == list(range(10))
    assert choose_indices(probabilities, labels, 20) == chosen


def test_chosen_pictures_fill_up_with_what_there_is() -> None:
    probabilities = two_class([0.9, 0.8, 0.7, 0.6])
    all_right, all_wrong = np.ones(4, int), np.zeros(4, int)
    assert choose_indices(probabilities, all_right, 2) == [0, 2]
    assert choose_indices(probabilities, all_wrong, 2) == [0, 1]
    assert choose_indices(probabilities, np.array([0, 0, 0, 1]), 4) == [0, 1, 2, 3]
    assert sorted(choose_indices(probabilities, np.array([1, 1, 0, 1]), 99)) == [0, 1, 2, 3]
    assert choose_indices(probabilities, all_right, 0) == []


@pytest.mark.filterwarnings("error")
def test_figures_are_written_without_a_display_or_pyplot() -> None:
    tiles = [tile("cat", "dog", heat=True)]
    for figure in (
        curves(history(2), "$t_{", best_epoch=1),
        confusion_matrix(some_matrix(4), AWKWARD, "$t_{"),
        mistakes(tiles, "$t_{", wrong=1, total=9),
        gradcam_sheet(tiles, "$t_{"),
    ):
        assert isinstance(figure.canvas, FigureCanvasAgg)
        written = io.BytesIO()
        figure.savefig(written, format="png")
        width, height = figure.get_size_inches()
        assert Image.open(written).size == (int(width * 120), int(height * 120))
    assert plt.get_fignums() == []
