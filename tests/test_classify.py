"""`classify`: image files of any size and format, and files that are not."""

import csv
import io
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import classify as classify_module
from pipeline.classify import classify
from pipeline.console import classifications_table
from pipeline.data import image_files
from pipeline.data.image_files import FORMATS, find_image_files, read_image_file
from pipeline.errors import InputError
from pipeline.learning.device import Machine
from pipeline.results import Classification
from pipeline.runs.run_folder import open_run
from pipeline.task import CIFAR10
from pipeline.trained_ensemble import EnsemblePredictor, open_ensemble

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


@pytest.fixture
def in_run(cli, trained_folder, monkeypatch):
    """Change to the folder of the trained run."""
    monkeypatch.chdir(trained_folder)


def halves(size=(64, 64)):
    """Return an image whose upper half is red, and its lower one green."""
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, (0, 0, size[0], size[1] // 2))
    return image


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_labels_are_those_of_the_full_ensemble(cli, in_run, tmp_path):
    for name in ("b.png", "a.png"):
        Image.fromarray(SMALL).save(tmp_path / name)
    done = cli("classify", tmp_path, "--run", "two")
    predictor = EnsemblePredictor(open_ensemble(open_run("two"), CIFAR10), Machine())
    (expected,) = predictor.probabilities(SMALL[None])
    second, first = np.argsort(expected)[-2:]

    assert (done.status, done.stderr) == (0, "")
    rows = rows_of(done.stdout)
    assert [row["file"] for row in rows] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert {row["label"] for row in rows} == {CIFAR10.class_names[first]}
    assert {row["second_label"] for row in rows} == {CIFAR10.class_names[second]}
    # The run's machine may compute in bf16.
    assert float(rows[0]["probability"]) == pytest.approx(expected[first], abs=0.01)
    assert float(rows[0]["second_probability"]) == pytest.approx(expected[second], abs=0.01)


def test_bad_files_are_one_line_each_and_the_rest_is_classified(cli, in_run, tmp_path):
    whole = tmp_path / "whole.png"
    halves().save(whole)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:60])
    (tmp_path / "empty.jpg").touch()
    halves().convert("CMYK").save(tmp_path / "print.jpg")
    done = cli("classify", tmp_path, tmp_path / "notes.txt", tmp_path / "nothing.png", "--run", "two", "--json")

    assert done.status == 1
    assert [Path(row["file"]).name for row in json.loads(done.stdout)] == ["print.jpg", "whole.png"]
    lines = done.stderr.splitlines()
    assert [Path(line.partition(": ")[0]).name for line in lines] == [
        "cut.png",
        "empty.jpg",
        "notes.txt",
        "nothing.png",
    ]
    assert lines[0].endswith(": is corrupted: image file is truncated")
    assert "is not an image (AVIF, BMP, " in lines[2]
    assert "does not exist" in lines[3]


def test_untrained_run_is_one_line(cli, trained_folder, tmp_path):
    done = cli("classify", tmp_path, "--run", "two")

    assert (done.status, done.stderr) == (1, "error: there is no run two in submissions\n")


def test_only_one_batch_of_images_is_in_memory(in_run, tmp_path, monkeypatch):
    monkeypatch.setattr(classify_module, "BATCH_SIZE", 4)
    path = tmp_path / "large.png"
    halves((1000, 1000)).save(path)
    alive, peak = [0], []
    read = classify_module.read_image_file

    def count(*arguments):
        alive[0] += 1
        return read(*arguments)

    monkeypatch.setattr(classify_module, "read_image_file", count)
    for done, _ in enumerate(classify(open_ensemble(open_run("two"), CIFAR10), [path] * 10, pytest.fail)):
        peak.append(alive[0] - done)

    assert len(peak) == 10
    assert max(peak) == 4


def test_terminal_gets_a_table(capsys):
    row = Classification(
        file="[bold]a.png", label="cat", probability=0.75, second_label="dog", second_probability=0.125
    )
    from rich.console import Console

    Console(width=100).print(classifications_table([row]))
    assert "│ [bold]a.png │ cat   │ 0.7500      │ dog          │ 0.1250      │" in capsys.readouterr().out


def test_image_of_the_right_size_keeps_its_pixels(tmp_path):
    Image.fromarray(SMALL).save(tmp_path / "a.png")

    assert np.array_equal(read_image_file(tmp_path / "a.png", 32), SMALL)


def test_square_in_the_middle_is_resized(tmp_path):
    image = Image.new("RGB", (300, 100), GREEN)
    image.paste(RED, (90, 0, 210, 100))
    image.save(tmp_path / "wide.png")

    pixels = read_image_file(tmp_path / "wide.png", 32)
    assert pixels.shape == (32, 32, 3)
    assert (pixels == RED).all()


@pytest.mark.parametrize("ending", ["avif", "bmp", "gif", "jp2", "jpg", "png", "ppm", "tif", "webp"])
def test_every_format_is_read(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    halves().save(path)
    pixels = read_image_file(path, 32).astype(int)

    assert np.abs(pixels[4] - RED).max() < 12
    assert np.abs(pixels[27] - GREEN).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.full((40, 40), 51, np.uint8) if mode != "1" else np.full((40, 40), 255, np.uint8)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    pixels = read_image_file(path, 32)

    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - int(grey[0, 0])).max() <= 1


def test_cmyk_of_a_jpeg_has_its_colours(tmp_path):
    halves().convert("CMYK").save(tmp_path / "a.jpg")
    pixels = read_image_file(tmp_path / "a.jpg", 32).astype(int)

    assert np.abs(pixels[4] - RED).max() < 12
    assert np.abs(pixels[27] - GREEN).max() < 12


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])], ids=["one colour", "a value for each colour"])
def test_transparent_colour_of_a_palette_is_white(tmp_path, transparency):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([*RED, *GREEN])
    image.paste(0, (0, 0, 64, 32))
    image.save(tmp_path / "a.png", transparency=transparency)
    pixels = read_image_file(tmp_path / "a.png", 32)

    assert (pixels[4] == RED).all()
    assert (pixels[27] == WHITE).all()


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 51)).save(tmp_path / "a.png")

    assert (read_image_file(tmp_path / "a.png", 32) == 204).all()


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = read_image_file(tmp_path / "a.jpg", 32).astype(int)

    assert np.abs(pixels[4] - GREEN).max() < 12
    assert np.abs(pixels[27] - RED).max() < 12


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_first_frame_of_an_animation_is_read(tmp_path, ending):
    others = [Image.new("RGB", (64, 64), color) for color in (WHITE, GREEN)]
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (64, 64), RED).save(path, save_all=True, append_images=others, duration=100)

    assert np.abs(read_image_file(path, 32).astype(int) - RED).max() < 12


@pytest.mark.parametrize("ending", ["avif", "bmp", "gif", "jp2", "jpg", "png", "tif", "webp"])
def test_changed_bytes_are_one_error_or_an_image(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    halves().save(path)
    data = path.read_bytes()
    for _ in range(40):
        changed = bytearray(data)
        for position in RNG.integers(0, len(data), 3):
            changed[position] = RNG.integers(256)
        path.write_bytes(changed[: RNG.integers(1, len(data) + 1)] if RNG.random() < 0.3 else changed)
        try:
            assert read_image_file(path, 32).shape == (32, 32, 3)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


def test_image_with_too_many_pixels_is_rejected_before_it_is_decoded(tmp_path):
    Image.new("1", (12_000, 8_000)).save(tmp_path / "a.png")
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.png: is too large, expected at most 89 megapixels"):
        read_image_file(tmp_path / "a.png", 32)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert Image.MAX_IMAGE_PIXELS // 10**6 == image_files.MAX_MEGAPIXELS


def test_floating_point_pixels_are_rejected(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")

    with pytest.raises(InputError, match=r"a\.tif: its pixels are floating-point numbers"):
        read_image_file(tmp_path / "a.tif", 32)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_pipe_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "a.png")

    with pytest.raises(InputError, match=r"a\.png: is not a regular file"):
        read_image_file(tmp_path / "a.png", 32)


def test_image_files_of_a_folder_are_sorted_and_other_files_are_ignored(tmp_path):
    names = ("b.PNG", "a/z.jpeg", "a/y.txt", "c.webp", ".hidden.png", "labels.csv")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    found = [path.relative_to(tmp_path).as_posix() for path in find_image_files(tmp_path)]
    assert found == ["a/z.jpeg", "b.PNG", "c.webp"]


def test_folder_without_image_files_is_an_error(tmp_path):
    (error,) = find_image_files(tmp_path)

    assert str(error) == f"{tmp_path}: contains no image files ({', '.join(FORMATS)})"
