import io
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import py7zr
import pytest
from conftest import NUM_TEST, NUM_TRAIN

from pipeline.data import source as source_module
from pipeline.demo.dataset import encode_png, write_archive
from pipeline.task import SAMPLE_SUBMISSION_CSV, TRAIN_LABELS_CSV, ZIP_NAME
from pipeline.demo.images import draw_image
from pipeline.data.source import find_source
from pipeline.errors import InputError


def everything(folder):
    """All that a source tells: ids, labels, and the decoded images by id."""
    source = find_source(folder)
    images = {
        split: {number: source.decode(data).tobytes() for number, data in source.read(split)}
        for split in ("train", "test")
    }
    labels = source.labels()
    ids = {split: source.ids(split).tolist() for split in ("train", "test")}
    return ids, labels.ids.tolist(), labels.classes.tolist(), images


@pytest.mark.parametrize("form", ["zip_folder", "archives_folder", "images_folder"])
def test_every_form_of_kaggles_files_gives_the_same(form, request, zip_folder):
    found = everything(request.getfixturevalue(form))

    ids, label_ids, _, images = found
    assert ids == {"train": list(range(1, NUM_TRAIN + 1)), "test": list(range(1, NUM_TEST + 1))}
    assert label_ids == ids["train"]
    assert {split: sorted(by_id) for split, by_id in images.items()} == ids
    assert found == everything(zip_folder)


def test_a_compressed_zip_is_read_as_well(archives_folder, tmp_path, zip_folder):
    with zipfile.ZipFile(tmp_path / ZIP_NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in archives_folder.iterdir():
            archive.write(path, path.name)

    assert everything(tmp_path) == everything(zip_folder)


def test_a_kaggle_notebooks_mount_is_found_without_a_flag(monkeypatch, tmp_path, archives_folder):
    shutil.copytree(archives_folder, tmp_path / "mount" / "competitions" / "cifar-10")
    monkeypatch.setattr(source_module, "NOTEBOOK_MOUNT", tmp_path / "mount")

    assert find_source(tmp_path / "input").ids("test").tolist() == list(range(1, NUM_TEST + 1))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
def test_torchvisions_batches_come_with_test_labels(batches_folder, packed):
    if packed:
        with tarfile.open(batches_folder.parent / "cifar-10-python.tar.gz", "w:gz") as tar:
            tar.add(batches_folder, "cifar-10-batches-py")
        shutil.rmtree(batches_folder)
    source = find_source(batches_folder.parent)
    rng = np.random.default_rng(5)
    kinds = rng.permutation(np.arange(20) % 10).tolist()
    first = draw_image(kinds[0], rng)

    assert source.ids("train").tolist() == list(range(1, 101))
    assert source.labels().classes[:20].tolist() == kinds
    number, data = next(source.read("train"))
    assert number == 1
    assert np.array_equal(source.decode(data), first)
    assert source.test_labels().ids.tolist() == list(range(1, 21))


def test_a_batch_that_would_run_code_is_refused(batches_folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    batches_folder.joinpath("data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))

    with pytest.raises(InputError, match=r"data_batch_1 can't be read \(UnpicklingError: it asks for builtins\.exec\)"):
        find_source(tmp_path).ids("train")
    assert not (tmp_path / "harm").exists()


def test_a_missing_batch_is_named(batches_folder, tmp_path):
    batches_folder.joinpath("data_batch_2").unlink()

    with pytest.raises(InputError, match="has no data_batch_2"):
        find_source(tmp_path).ids("train")


def test_no_input_tells_the_ways_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"(?s)input does not exist.*run\.py download.*run\.py demo.*--input DIR"):
        find_source(tmp_path / "input")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds notes\.txt and nothing of the competition"):
        find_source(tmp_path)


def test_a_file_as_input_names_its_folder(zip_folder):
    with pytest.raises(InputError, match=rf"is a file, expected the folder that holds it: --input {zip_folder}"):
        find_source(zip_folder / ZIP_NAME)


def test_a_web_page_saved_as_zip_tells_to_accept_the_rules(tmp_path):
    (tmp_path / ZIP_NAME).write_text("\n<!DOCTYPE html><html>Accept the rules</html>")

    with pytest.raises(InputError, match=r"cifar-10\.zip is a web page, not a zip.*Accept the rules on kaggle\.com"):
        find_source(tmp_path).labels()


def test_a_truncated_zip_is_named(zip_folder, tmp_path):
    data = (zip_folder / ZIP_NAME).read_bytes()
    (tmp_path / ZIP_NAME).write_bytes(data[: len(data) // 2])

    with pytest.raises(InputError, match=r"cifar-10\.zip is no whole zip .*cut off or damaged"):
        find_source(tmp_path).ids("train")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train.7z", r"has neither train\.7z nor a folder train/"),
        ("test.7z", r"has neither test\.7z nor a folder test/"),
        (TRAIN_LABELS_CSV, r"has images but no trainLabels\.csv"),
    ],
)
def test_a_missing_file_is_named(archives_folder, tmp_path, missing, message):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    (folder / missing).unlink()
    source = find_source(folder)

    with pytest.raises(InputError, match=message):
        source.labels() if missing.endswith(".csv") else source.ids(missing.removesuffix(".7z"))


@pytest.mark.parametrize("has_sample", [True, False])
def test_a_missing_test_image_is_named(images_folder, tmp_path, has_sample):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / "test" / "17.png").unlink()
    if not has_sample:
        (folder / SAMPLE_SUBMISSION_CSV).unlink()

    with pytest.raises(InputError, match=rf"misses image test/17\.png \(1 in all\), expected {NUM_TEST} images"):
        find_source(folder).ids("test")


def test_a_foreign_test_image_is_named(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    shutil.copy(folder / "test" / "1.png", folder / "test" / "999.png")

    with pytest.raises(InputError, match=r"has the foreign image test/999\.png"):
        find_source(folder).ids("test")


@pytest.mark.parametrize("name", ["train/007.png", "train/x.png", "train/sub/1.png", "test/1.png"])
def test_a_member_with_a_strange_name_is_refused(archives_folder, tmp_path, name):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    png = encode_png(draw_image(0, np.random.default_rng(0)))
    write_archive(folder / "train.7z", {"train/1.png": png, name: png})

    with pytest.raises(InputError, match=r"expected names such as train/1\.png"):
        find_source(folder).ids("train")


def test_a_repeated_member_is_named(tmp_path, archives_folder):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    png = encode_png(draw_image(0, np.random.default_rng(0)))
    with py7zr.SevenZipFile(folder / "train.7z", "w") as archive:
        archive.writef(io.BytesIO(png), "train/5.png")
        archive.writef(io.BytesIO(png), "train/5.png")

    with pytest.raises(InputError, match=r"holds the image train/5\.png more than once"):
        find_source(folder).ids("train")
