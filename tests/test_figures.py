"""The look of the figures: readable in print, axes with their names, captions that say data, seed and count."""

import io

import matplotlib
import numpy as np
import pandas
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ppcl import bench, plots
from ppcl.data import image_bank, partial_views
from ppcl.evaluation import known_truth, results
from ppcl.plots import cells, charts, figure_style
from ppcl.recipes import recipe
from ppcl.recipes.methods import METHODS
from ppcl.runs import reproduce

NOTE = "drawn pictures, demo profile, seed 0"


@pytest.fixture(scope="module", autouse=True)
def look():
    with matplotlib.rc_context():
        plots.style(note=NOTE)
        yield
        plots.style()


def _bank(count=6, size=(64, 32)):
    draw = torch.Generator().manual_seed(0)
    shown = torch.randint(256, (count, 3, *size), generator=draw, dtype=torch.uint8)
    return image_bank.ImageBank(shown, torch.zeros(count))


def _charts():
    table = results.read(reproduce.ROOT / "figures")
    single = table[(table.protocol == "single-shot") & (table.task == "person") & (table.metric == "rank-1")]
    few = ["backbone", "backbone+crops+pad", "+glrec@7", "ppcl"]
    bins = [*known_truth.RATIO_BINS]
    yield plots.comparison(single[single.subset == "all"], "rank-1, %")
    yield plots.by_subset(single, partial_views.KINDS, "kind of crop", few, False)
    yield plots.by_subset(single, bins, "input ratio", few, True)
    band = np.linspace(0.2, 1, 20)[:, None].repeat(3, 1)
    yield plots.cmc({"partial-reid, n = 600": dict.fromkeys(few, band)})
    yield plots.roc({"lfw, 2000 pairs": dict.fromkeys(few, (np.array([0.001, 0.1, 1]), np.array([0.5, 0.9, 1])))})
    log = pandas.DataFrame({"step": [0, 10, 20], "box": [3.0, 2.0, 1.0], "gate": 0.5, "iou": 0.6, "lr": 1e-4})
    panels = {name: name for name in ("box", "gate", "iou", "lr")}
    yield plots.curves({"GLRec": log}, panels)
    yield plots.curves(dict.fromkeys(METHODS, log), {"box": "box loss", "gate": "gate loss"})
    yield plots.gate_histogram(
        {name: torch.randn(30) for name in ("partial", "partial, canvas's shape", "whole", "odd")}
    )
    entries = bench.read()
    yield plots.speed(entries | {"another": next(iter(entries.values()))})
    yield plots.gallery_cost(entries)


def _boards():
    bank, whole, faces = _bank(), torch.tensor([[0.5, 0.5, 1, 1.0]] * 6), _bank(size=(32, 32))
    partial = torch.ones(6, dtype=torch.bool)
    for some in (bank, faces):
        yield plots.located(some, whole, partial, some, {"truth": whole, "p": whole, "q": whole}, range(6))
        yield plots.ranking(some, whole, partial, some, np.arange(36).reshape(6, 6) % 6, whole.expand(6, 6, 4))
        yield plots.placements(some, whole, whole, range(6))
    pictures = [picture.permute(1, 2, 0).numpy() for picture in bank.images[:5]]
    group = {"partial": pictures, "whole": pictures, "boxes": whole[:5] * torch.tensor([1, 1, 0.5, 0.5])}
    yield plots.figure_one({"Partial-REID": group, "Partial-iLIDS": group, "Partial-LFW": group})


def texts(figure):
    return [one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible()]


@pytest.fixture(scope="module")
def drawings(look):
    """Every kind of chart, and every kind of board, as they are shown."""
    return list(_charts()), list(_boards())


def test_no_letter_is_smaller_than_7_points_on_a_page(drawings):
    for figure in (*drawings[0], *drawings[1]):
        fits = min(1, figure_style.WIDTH / figure.get_figwidth())
        figure.draw_without_rendering()
        with figure_style.captioned(figure):
            small = {one.get_text(): one.get_fontsize() * fits for one in texts(figure)}
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


def test_a_notebooks_png_is_small_and_thin_lines_keep_their_colours():
    sides = np.mgrid[:400, :400] / 399
    photograph = np.stack([sides[0], sides.prod(0), 1 - sides[1]], -1) * 255  # many colours, none of the lines'
    photograph += np.random.default_rng(0).normal(0, 12, photograph.shape)
    picture = photograph.clip(0, 255).astype(np.uint8)
    colours = [np.round(255 * np.array(colour)).astype(int) for colour, _, _ in cells.BOXES.values()]
    for at, colour in enumerate(colours):
        picture[50 + 80 * at : 52 + 80 * at, 100:300] = colour
    encoded, whole = figure_style.few_colours(Image.fromarray(picture)), io.BytesIO()
    Image.fromarray(picture).save(whole, "png", optimize=True)
    assert len(encoded) < len(whole.getvalue()) / 3
    seen = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    for at, colour in enumerate(colours):
        assert abs(seen[50 + 80 * at, 100:300] - colour).max() < 30
    assert abs(seen - picture).mean() < 12


def test_a_caption_stands_below_and_in_the_file_and_not_twice(tmp_path):
    figure = plots.caption(plots.gallery_cost(bench.read()), "3 of 12 pictures")
    words = f"3 of 12 pictures; {NOTE}"
    first, again = plots.small_png(figure), plots.small_png(figure)
    assert first == again and figure.texts == []
    path = plots.save(figure, tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.info["Description"] == words
    pdf = path.with_suffix(".pdf").read_bytes()
    plots.save(figure, path)
    assert pdf == path.with_suffix(".pdf").read_bytes() and words.encode() in pdf
    plots.style()
    try:
        bare = Image.open(io.BytesIO(plots.small_png(plots.gallery_cost(bench.read()))))
    finally:
        plots.style(note=NOTE)
    assert Image.open(io.BytesIO(first)).height > bare.height  # the caption takes room of its own


def test_counts_come_from_the_rows():
    table = results.read(reproduce.ROOT / "figures")
    some = table[(table.dataset == "partial-reid") & (table.protocol == "single-shot") & (table.metric == "rank-1")]
    figure = plots.by_subset(some, partial_views.KINDS, "kind", ["ppcl"], False)
    assert "left\nn = 118" in [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    two = pandas.concat([some, some.assign(seed=1)])
    titles = [plots.comparison(rows[rows.subset == "all"], "rank-1, %").axes[0].get_title() for rows in (some, two)]
    assert titles == ["partial-reid, n = 600", "partial-reid, n = 600, mean of 2 seeds"]


def test_the_note_of_a_run_tells_drawn_pictures_from_photographs(drawn, tmp_path):
    tiny = recipe("person", "tiny")
    assert reproduce.source(tiny, drawn, 4) == "drawn pictures, tiny profile, seed 4"
    assert reproduce.source(tiny, tmp_path / "nothing yet", 0, 3) == "drawn pictures, tiny profile, seeds 0 to 2"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/picture.jpg").write_bytes(b"")
    assert reproduce.source(tiny, tmp_path / "own", 0).startswith("photographs, ")


def test_an_empty_figure_can_be_captioned():
    assert plots.small_png(plots.caption(Figure(figsize=(2, 1)), "nothing"))[:4] == b"\x89PNG"
