"""The look of the figures: readable in print, axes with their names, captions that say data, seed and count."""

import base64
import io

import matplotlib
import numpy as np
import pandas
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from ppcl import bench, plots
from ppcl.data import image_bank, partial_views
from ppcl.evaluation import known_truth, results
from ppcl.plots import charts, figure_style
from ppcl.recipes import recipe
from ppcl.recipes.methods import METHODS
from ppcl.runs import reproduce

NOTE = "drawn pictures, demo profile, seed 0"
PUBLISHED = reproduce.ROOT / "figures"


@pytest.fixture(scope="module", autouse=True)
def note():
    plots.note(NOTE)
    yield
    plots.note("")


def _bank(count=6, size=(64, 32)):
    rng = torch.Generator().manual_seed(0)
    shown = torch.randint(256, (count, 3, *size), generator=rng, dtype=torch.uint8)
    return image_bank.ImageBank(shown, torch.zeros(count))


def _charts():
    table = results.read(PUBLISHED)
    single = table[(table.protocol == "single-shot") & (table.task == "person") & (table.metric == "rank-1")]
    few = ["backbone", "backbone+crops+pad", "+glrec@7", "ppcl"]
    yield plots.forest(results.over_draws(results.read(PUBLISHED, results.DRAWINGS)), "points of rank-1")
    yield plots.by_subset(single, partial_views.KINDS, "kind of crop", few, False)
    yield plots.by_subset(single, [*known_truth.RATIO_BINS], "input ratio", few, True)
    x, band = np.arange(1, 21), np.linspace(0.2, 1, 20)[:, None].repeat(3, 1)
    yield plots.method_curves({"partial-reid, n = 600": dict.fromkeys(few, (x, band))}, "rank k", "found, %")
    far, tar = np.array([0.001, 0.1, 1]), np.array([0.5, 0.9, 1])
    yield plots.method_curves({"lfw, 2000 pairs": dict.fromkeys(few, (far, tar))}, "far", "tar, %", "log")
    log = pandas.DataFrame({"step": [0, 10, 20], "box": [3.0, 2.0, 1.0], "gate": 0.5, "iou": 0.6, "lr": 1e-4})
    yield plots.curves({"GLRec": log}, {name: name for name in ("box", "gate", "iou", "lr")})
    yield plots.curves(dict.fromkeys(METHODS, log), {"box": "box loss", "gate": "gate loss"})
    yield plots.gate_histogram(
        {name: torch.randn(30) for name in ("partial", "partial, canvas's shape", "whole", "odd")}
    )
    yield plots.speed(bench.read())


def _boards():
    whole, partial = torch.tensor([[0.5, 0.5, 1, 1.0]] * 6), torch.ones(6, dtype=torch.bool)
    for bank in (_bank(), _bank(4, size=(32, 32))):
        yield plots.grid(bank.images, titles=[f"{i} %" for i in range(len(bank))], columns=2, labels=["one", "another"])
        yield plots.partial_views(bank.images, whole[: len(bank)], bank.images, bank.ratios)
        yield plots.sketch(bank.images[0], whole[0])
        yield plots.located(bank, whole, partial, bank, {"truth": whole, "p": whole, "q": whole}, torch.arange(4))
        yield plots.ranking(bank[:2], whole, partial, bank, np.arange(8).reshape(2, 4) % 4, whole.expand(2, 6, 4))
        yield plots.placements(bank, whole, whole, torch.arange(4))
        points, boxes = torch.rand(2, 6, 2), {"q": whole, "truth": whole}
        columns = {"right picture,\nbefore training": (bank.images[2:4], points, boxes)}
        yield plots.expected_points(list(bank.images[:2]), points, columns, (3, 2))
    pictures = [picture.permute(1, 2, 0).numpy() for picture in _bank().images[:5]]
    group = {"partial": pictures, "whole": pictures, "boxes": whole[:5] * torch.tensor([1, 1, 0.5, 0.5])}
    yield plots.figure_one({"Partial-REID": group, "Partial-iLIDS": group, "Partial-LFW": group})


def texts(figure):
    return [one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible()]


@pytest.fixture(scope="module")
def drawings(note):
    """Every kind of chart, and every kind of board, as they are shown."""
    return list(_charts()), list(_boards())


def test_figures_fit_a_page_and_no_letter_is_smaller_than_7_points(drawings):
    for figure in (*drawings[0], *drawings[1]):
        assert figure.get_figwidth() <= figure_style.WIDTH + 1e-6
        figure.draw_without_rendering()
        with figure_style.captioned(figure):
            small = {one.get_text(): one.get_fontsize() for one in texts(figure)}
        assert min(small.values()) > 6.99, small


def test_axes_say_what_they_show(drawings):
    for figure in drawings[0]:
        assert all(one.get_xlabel() for one in figure.axes)
        ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        named = figure.axes[0].get_ylabel() or all(one.get_title() for one in figure.axes) or ticks[0][0].isalpha()
        assert named, [one.get_title() for one in figure.axes]


def test_nothing_of_a_figure_lies_on_its_legend_or_caption(drawings):
    for figure in (*drawings[0], *drawings[1]):
        renderer = FigureCanvasAgg(figure).get_renderer()
        with figure_style.captioned(figure):
            figure.draw(renderer)
            low = min(one.get_tightbbox(renderer).y0 for one in figure.axes if one.axison or one.images)
            legends = [one.get_window_extent(renderer) for one in figure.legends]
            caption = next(one for one in figure.texts if NOTE in " ".join(one.get_text().split()))
            caption = caption.get_window_extent(renderer)
        assert all(box.y1 <= low + 1 for box in legends)
        assert caption.y1 <= min([low, *(box.y0 for box in legends)]) + 1


def test_pale_colours_draw_no_line():
    def contrast(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 1.05 / (0.05 + np.dot((0.2126, 0.7152, 0.0722), linear))

    for name in METHODS:
        assert contrast(matplotlib.colors.to_rgb(charts._look(name)["color"])) > 2, name
    looks = [charts._look(name) for name in METHODS]
    assert len({(look["color"], look["ls"], look["marker"]) for look in looks}) == len(looks)


@pytest.mark.parametrize("key, value", [("text.usetex", True), ("font.family", ["No Such Font"])])
def test_a_users_settings_change_nothing(tmp_path, key, value):
    """They may say that letters are set by TeX, which may not be there. Ours change theirs as little."""
    table = pandas.DataFrame({"value": [1.0], "low": [0.5], "high": [2.0]}, index=[("set", "ppcl")])
    table.index = pandas.MultiIndex.from_tuples(table.index)
    bank, box, partial = _bank(2), torch.tensor([[0.5, 0.5, 1, 0.5]] * 2), torch.ones(2, dtype=torch.bool)

    def drawn():
        ranking = plots.ranking(bank, box, partial, bank, np.array([[0, 1], [1, 0]]), correct=np.eye(2) > 0)
        return [plots.save(one, tmp_path / "a").read_bytes() for one in (ranking, plots.forest(table, "points"))]

    plain = drawn()
    with matplotlib.rc_context({key: value}):
        assert drawn() == plain and matplotlib.rcParams[key] == value


def shown(figure):
    """The picture that a notebook shows, and its kind."""
    ((kind, data),) = ((k, v) for k, v in plots.notebook_picture(figure).items() if k != "text/plain")
    return Image.open(io.BytesIO(base64.b64decode(data))), kind


def test_a_notebook_shows_figures_in_all_their_colours_as_wide_as_its_text(drawings):
    for figure in drawings[0]:
        picture, kind = shown(figure)
        assert kind == "image/png" and picture.width > 690
    photograph = torch.linspace(0, 255, 128 * 64).view(1, 128, 64).byte().expand(3, -1, -1)
    picture, kind = shown(plots.grid(photograph.expand(24, -1, -1, -1)))
    assert kind == "image/jpeg" and picture.width > 690
    assert len(picture.convert("L").getcolors()) > 250  # a smooth ramp has no steps
    colours = [[round(255 * part) for part in colour] for colour, _, _ in plots.BOXES.values()]
    for meaning, colour in zip(plots.BOXES, colours, strict=True):
        figure = plots.grid(photograph.expand(12, -1, -1, -1))
        plots.outline(figure.axes[3], torch.tensor([0.5, 0.5, 0.6, 0.6]), meaning)
        pixels = np.asarray(shown(figure)[0].convert("RGB")).astype(int)
        assert abs(pixels - colour).max(-1).min() < 40, meaning


def test_a_caption_stands_below_and_in_the_file_and_not_twice(tmp_path):
    figure = plots.caption(plots.speed(bench.read()), "3 of 12 pictures")
    words = f"3 of 12 pictures; {NOTE}"
    first, again = plots.notebook_picture(figure), plots.notebook_picture(figure)
    assert first == again and figure.texts == [] and first["text/plain"] == words
    path = plots.save(figure, tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.info["Description"] == words
    pdf = path.with_suffix(".pdf").read_bytes()
    plots.save(figure, path)
    assert pdf == path.with_suffix(".pdf").read_bytes() and words.encode() in pdf
    plots.note("")
    try:
        bare = shown(plots.speed(bench.read()))[0]
    finally:
        plots.note(NOTE)
    assert shown(figure)[0].height > bare.height  # the caption takes room of its own


def test_a_frame_and_an_outline_do_not_cover_each_other():
    """Also where the located region is the whole picture: both colours are there, on all four sides."""
    bank, box, one = _bank(1), torch.tensor([[0.5, 0.5, 1, 1.0]]), torch.ones(1, 1, dtype=torch.bool)
    figure = plots.ranking(bank, box, one[0] & False, bank, np.zeros((1, 1), int), box[None], one)
    file = io.BytesIO()
    figure.savefig(file, dpi=200)
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    cell = figure.axes[1].get_window_extent().transformed(figure.transFigure.inverted())
    wide, high = pixels.shape[1], pixels.shape[0]
    for colour in (plots.PALETTE[2], plots.BOXES["q"][0]):
        there = abs(pixels - np.array(colour) * 255).max(-1) < 25
        y, x = (cell.y0 + cell.y1) / 2, (cell.x0 + cell.x1) / 2
        across, along = there[round((1 - y) * high)], there[:, round(x * wide)]
        for line, low, right in (
            (across, cell.x0 * wide, cell.x1 * wide),
            (along, (1 - cell.y1) * high, (1 - cell.y0) * high),
        ):
            edges = [line[max(0, round(at) - 14) : round(at) + 14].sum() for at in (low, right)]
            assert min(edges) >= 2, (colour, edges)


def test_counts_come_from_the_rows():
    table = results.read(PUBLISHED)
    some = table[(table.dataset == "partial-reid") & (table.protocol == "single-shot") & (table.metric == "rank-1")]
    figure = plots.by_subset(some, partial_views.KINDS, "kind", ["ppcl"], False)
    assert "left\nn = 118" in [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    two = pandas.concat([some, some.assign(seed=1)])
    figure = plots.by_subset(two, partial_views.KINDS, "kind", ["ppcl"], False)
    assert figure.axes[0].get_title() == "partial-reid, mean of 2 seeds"


def test_a_forest_plot_tells_what_is_shown_from_what_is_not():
    index = pandas.MultiIndex.from_product([["one", "two"], ["no-cycle", "no-prior"]])
    table = pandas.DataFrame({"value": [1, 2, 3, -4.0], "low": [-1, 1, 2, -6.0], "high": [3, 3, 4, -2.0]}, index)
    figure = plots.forest(table.assign(seeds=[6, 3, 6, 3]), "points")
    assert [one.get_title() for one in figure.axes] == ["one", "two"]
    for one, name in zip(figure.axes, ("one", "two"), strict=True):
        words, rows = [text.get_text() for text in one.texts], table.loc[name]
        counted = zip(rows.itertuples(), (6, 3), strict=True)
        assert words == [f"{r.value:.1f} [{r.low:.1f}, {r.high:.1f}] ({n})" for r, n in counted]
        points = [line for line in one.lines if line.get_marker() == "o"]
        hollow = [line.get_markerfacecolor() == "white" for line in points]
        assert hollow == [low < 0 < high for low, high in zip(rows.low, rows.high, strict=True)]
        assert [line.get_xdata()[0] for line in points] == rows.value.tolist()


def test_the_note_of_a_run_tells_drawn_pictures_from_photographs(drawn, tmp_path):
    tiny = recipe("person", "tiny")
    assert reproduce.source(tiny, drawn, 4) == "drawn pictures, tiny profile, seed 4"
    assert reproduce.source(tiny, tmp_path / "nothing yet", 0, 3) == "drawn pictures, tiny profile, seeds 0 to 2"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/picture.jpg").write_bytes(b"")
    assert reproduce.source(tiny, tmp_path / "own", 0).startswith("photographs, ")
