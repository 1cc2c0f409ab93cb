import math

import numpy as np
import pytest
import torch
from PIL import Image

from ppcl.data import image_bank, image_files
from ppcl.data.datasets import SUFFIXES, DataError
from ppcl.data.image_bank import bank
from ppcl.data.image_files import open_picture
from ppcl.data.reading import Cut

RED, HALF_RED_ON_WHITE = (255, 0, 0), (255, 127, 127)


def near(pixel, colour, tolerance=3):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


def read_back(picture, path, **how):
    picture.save(path, **how)
    found = open_picture(path)
    assert found.mode == "RGB"
    return found


# --- every kind of picture ---


def test_transparent_palette_colour_lies_over_white(tmp_path):
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    found = read_back(picture, tmp_path / "a.png", transparency=1)
    assert found.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (*RED, 128), HALF_RED_ON_WHITE),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (0, 128), (127, 127, 127)),
        ("LA", (90, 255), (90, 90, 90)),
    ],
)
def test_alpha_lies_over_white(tmp_path, mode, colour, expected):
    assert near(read_back(Image.new(mode, (6, 4), colour), tmp_path / "a.png").getpixel((2, 2)), expected, 1)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_greys_keep_their_contrast(tmp_path, bits):
    """0, a quarter, a half and all of 10 to 16 bits: not clipped at 255, not folded to the low byte, not black."""
    values = np.array([[0, 2**bits // 4, 2**bits // 2, 2**bits - 1]], np.uint16).repeat(2, 0)
    found = read_back(Image.fromarray(values), tmp_path / "a.png")
    grey = [found.getpixel((x, 0)) for x in range(4)]
    assert all(near(pixel, (level,) * 3, 1) for pixel, level in zip(grey, (0, 64, 127, 255), strict=True))


def test_exif_rotation_is_honoured(tmp_path):
    """Orientation 6: the camera lay on its side, the picture's first row is the upright one's last column."""
    stored = Image.new("RGB", (40, 20), "blue")
    stored.paste("red", (0, 0, 40, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_back(stored, tmp_path / "a.jpg", exif=exif, quality=95)
    assert found.size == (20, 40)
    assert near(found.getpixel((18, 20)), RED, 30) and near(found.getpixel((3, 20)), (0, 0, 255), 30)
    upright, lying = bank([tmp_path / "a.jpg", stored], (32, 32), quiet=True).ratios
    assert upright.item() == pytest.approx(math.log(0.5)) and lying.item() == pytest.approx(math.log(2))


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (9, 80, 200)).save(tmp_path / "a.png")
    found = bank([tmp_path / "a.png"], (16, 8), quiet=True)
    assert (found.images == torch.tensor([9, 80, 200]).view(1, 3, 1, 1)).all()
    assert found.ratios.item() == pytest.approx(math.log(2))


def test_animations_are_no_pictures_of_a_set():
    assert ".gif" not in SUFFIXES
    assert {".jpg", ".jpeg", ".png"} <= SUFFIXES


# --- damaged ones are named ---


def test_limit_of_pixels_is_inclusive(tmp_path, monkeypatch):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match="10 x 10"):
        open_picture(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    assert open_picture(tmp_path / "a.png").size == (10, 10)


def test_an_opened_picture_that_shows_nothing_is_named():
    """A detector's empty box, or a file that was closed meanwhile."""
    plain, closed = Image.new("RGB", (9, 9)), Image.new("RGB", (9, 9))
    closed.close()
    for bad in (plain.crop((3, 3, 3, 9)), plain.crop((3, 3, 9, 3)), closed):
        with pytest.raises(DataError, match="picture 1 of 2"):
            bank([plain, bad], (16, 8), quiet=True)


def test_no_pictures_is_said():
    with pytest.raises(DataError, match="mine: no pictures"):
        bank([], (16, 8), "mine", quiet=True)


# --- the bank ---


def test_bank_keeps_order_values_and_ratios(tmp_path):
    sizes, levels = [(16, 32), (32, 32), (10, 40), (64, 16)], [10, 90, 170, 250]
    paths = []
    for i, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", size, (level, level, level)).save(paths[-1])
    found = bank(paths, (32, 16), quiet=True)
    assert found.images.dtype == torch.uint8 and found.images.shape == (4, 3, 32, 16) and found.size == (32, 16)
    assert found.images[:, 0, 5, 5].tolist() == levels
    assert found.ratios.tolist() == pytest.approx([math.log((w / h) / (16 / 32)) for w, h in sizes])
    assert found.ratios[0] == 0
    part = found[torch.tensor([2, 0])]
    assert part.images[:, 0, 0, 0].tolist() == [170, 10] and part.ratios.tolist() == found.ratios[[2, 0]].tolist()


def test_bank_keeps_channels_rows_and_columns_apart():
    pixels = np.random.default_rng(0).integers(256, size=(32, 16, 3), dtype=np.uint8)
    found = bank([Image.fromarray(pixels)], (32, 16), quiet=True)
    assert np.array_equal(found.images[0].permute(1, 2, 0).numpy(), pixels)


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3.3])
def test_pictures_in_a_bank_are_resized_as_pillow_does_it(tmp_path, scale):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        noise((round(64 / scale), round(32 / scale)), number).save(path, quality=80)
    found = bank(paths, (64, 32), quiet=True)
    for path, mine in zip(paths, found.images, strict=True):
        plain = Image.open(path).convert("RGB").resize((32, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(mine.permute(1, 2, 0).numpy(), np.asarray(plain))


# --- face pictures as LFW is distributed ---


def numbered(side):
    """A picture whose pixels name their own place: red is x, green is y."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@pytest.mark.parametrize("uncut, side, central", [(250, 250, 125), (96, 96, 48), (0, 250, 250), (250, 249, 249)])
def test_pictures_of_the_recipes_side_are_cut_to_their_centre(tmp_path, uncut, side, central):
    """As a file, as an image and in a bank; only of exactly this side, and of none where the recipe says 0."""
    numbered(side).save(tmp_path / "a.png")
    margin = (side - central) // 2
    for source in (tmp_path / "a.png", numbered(side)):
        found = np.asarray(open_picture(Cut(source, uncut)))
        assert found.shape == (central, central, 3)
        assert found[0, :, 0].tolist() == found[:, 0, 1].tolist() == list(range(margin, margin + central))
        cut = bank([Cut(source, uncut)], (central, central), quiet=True)
        assert np.array_equal(cut.images[0].permute(1, 2, 0).numpy(), found) and cut.ratios == 0


def test_a_box_of_an_uncut_face_is_a_part_of_its_centre():
    found = np.asarray(open_picture(Cut(numbered(250), 250, (0.5, 0.2, 0.4, 0.4))))
    assert found.shape == (50, 50, 3) and found[0, 0].tolist() == [62 + 38, 62, 0]  # 37.5 pixels from the left


def test_how_many_pictures_were_cut_is_said(capsys):
    pictures = [Cut(numbered(side), uncut) for side, uncut in ((250, 250), (100, 250), (250, 250), (250, 0))]
    bank(pictures, (8, 8), "my faces")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "my faces: 2 of 4" in said and "250 x 250" in said and "data.uncut" in said
    bank(pictures[1:2] + pictures[3:], (8, 8), "my faces")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kept", [2, 20, 200, 600, 700, -2])
def test_a_cut_off_jpeg_of_the_banks_size_is_named(tmp_path, kept):
    path = tmp_path / "a.jpg"
    noise((32, 16)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="a.jpg"):
        bank([path], (32, 16), quiet=True)


def test_many_pictures_keep_their_places():
    """More than a thread takes at a time."""
    pictures = [Image.new("RGB", (8, 16), (number, 0, 255 - number)) for number in range(150)]
    found = bank(pictures, (16, 8), quiet=True)
    assert found.images[:, 0, 0, 0].tolist() == list(range(150)) and found.ratios.abs().max() < 1e-6


def test_normalise_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    torch.testing.assert_close(
        image_bank.denormalise(image_bank.normalise(pixels)) * 255, pixels.float(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(image_bank.normalise(pixels), image_bank.normalise(pixels.float()))


def test_normalise_by_hand():
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    assert image_bank.normalise(mean).abs().max() < 1e-5
    white = image_bank.normalise(torch.full((1, 3, 1, 1), 255.0)).flatten().tolist()
    assert white == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rel=1e-5)
