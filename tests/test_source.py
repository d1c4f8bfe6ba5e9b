import errno
import io
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import py7zr
import pytest
from conftest import NUM_TEST, NUM_TRAIN

from pipeline.data import paths
from pipeline.data import source as source_module
from pipeline.data.source import find_source
from pipeline.demo.dataset import encode_png, make_synthetic_dataset, write_archive
from pipeline.demo.images import draw_image
from pipeline.errors import InputError
from pipeline.task import CIFAR10

OTHER_TASK = replace(
    CIFAR10,
    competition="shapes",
    class_names=("a", "b", "c", "d", "e"),
    image_shape=(48, 48, 3),
    zip_name="shapes.zip",
    train_labels_csv="train.csv",
    sample_submission_csv="sample.csv",
    train_archive="images-train.7z",
    test_archive="images-test.7z",
    id_column="image",
    label_column="target",
    torchvision_folder=None,
    torchvision_tar=None,
)


def read(source, split):
    with source.read(split) as images:
        return list(images)


def find(folder):
    return find_source(folder, CIFAR10)


def content(folder, task=CIFAR10):
    """Ids, labels and decoded images of a source."""
    source = find_source(folder, task)
    images = {
        split: {image_id: source.decode(data).tobytes() for image_id, data in read(source, split)}
        for split in ("train", "test")
    }
    labels = source.labels()
    ids = {split: source.ids(split).tolist() for split in ("train", "test")}
    return ids, labels.ids.tolist(), labels.labels.tolist(), images


@pytest.mark.parametrize("form", ["zip_folder", "archives_folder", "images_folder"])
def test_every_form_of_kaggles_files_has_the_same_content(form, request, zip_folder):
    found = content(request.getfixturevalue(form))

    ids, label_ids, _, images = found
    assert ids == {"train": list(range(1, NUM_TRAIN + 1)), "test": list(range(1, NUM_TEST + 1))}
    assert label_ids == ids["train"]
    assert {split: sorted(by_id) for split, by_id in images.items()} == ids
    assert found == content(zip_folder)


def test_compressed_zip_is_read(archives_folder, tmp_path, zip_folder):
    with zipfile.ZipFile(tmp_path / CIFAR10.zip_name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in archives_folder.iterdir():
            archive.write(path, path.name)

    assert content(tmp_path) == content(zip_folder)


def test_files_of_another_task_are_read(tmp_path):
    make_synthetic_dataset(tmp_path / "zip", num_train=10, num_test=5, task=OTHER_TASK)
    with zipfile.ZipFile(tmp_path / "zip" / "shapes.zip") as archive:
        archive.extractall(tmp_path / "archives")

    ids, label_ids, labels, images = content(tmp_path / "zip", OTHER_TASK)

    assert ids == {"train": list(range(1, 11)), "test": list(range(1, 6))}
    assert label_ids == ids["train"]
    assert set(labels) == set(range(5))
    assert {len(image) for by_id in images.values() for image in by_id.values()} == {48 * 48 * 3}
    assert content(tmp_path / "archives", OTHER_TASK) == (ids, label_ids, labels, images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(?s)empty is empty.*kaggle\.com/c/shapes.*images-test\.7z and train\.csv"):
        find_source(tmp_path / "empty", OTHER_TASK)


@pytest.fixture
def mount(monkeypatch, tmp_path):
    """Where a Kaggle notebook mounts its input."""
    monkeypatch.setattr(source_module, "NOTEBOOK_MOUNT", tmp_path / "mount")
    return tmp_path / "mount"


MOUNTS = ["cifar-10", "competitions/cifar-10", "datasets/owner/my-data", "datasets/owner/my-data/cifar-10", "my-data/x"]


@pytest.mark.parametrize("place", MOUNTS)
@pytest.mark.parametrize("form", ["zip_folder", "archives_folder", "images_folder"])
def test_mount_of_a_kaggle_notebook_is_found(mount, tmp_path, place, form, request):
    shutil.copytree(request.getfixturevalue(form), mount / place)

    assert find(tmp_path / "input").ids("test").tolist() == list(range(1, NUM_TEST + 1))


def test_other_mounted_data_sets_are_left_aside(mount, tmp_path, archives_folder, images_folder, batches_folder):
    (mount / "animal-faces" / "train" / "cat").mkdir(parents=True)
    (mount / "animal-faces" / "test").mkdir()
    retina = shutil.copytree(images_folder, mount / "a-retinopathy")
    (retina / CIFAR10.train_labels_csv).write_text("image,level\n10_left,0\n")
    shapes = shutil.copytree(images_folder, mount / "a-shapes")
    (shapes / CIFAR10.train_labels_csv).write_text("id,label\n1,circle\n")
    part = shutil.copytree(archives_folder, mount / "a-part")
    (part / "test.7z").unlink()
    shutil.copytree(batches_folder, mount / "a-torchvision" / batches_folder.name)
    assert find(tmp_path / "input").name == str(mount / "a-torchvision" / batches_folder.name)
    shutil.copytree(archives_folder, mount / "datasets" / "owner" / "copy-of-cifar-10")
    assert find(tmp_path / "input").name == str(mount / "datasets" / "owner" / "copy-of-cifar-10")
    shutil.copytree(archives_folder, mount / "competitions" / "cifar-10")

    assert find(tmp_path / "input").name == str(mount / "competitions" / "cifar-10")
    assert find(images_folder).name == str(images_folder)


def test_large_mounted_data_set_takes_no_time(mount, tmp_path, archives_folder, monkeypatch):
    for number in range(60):
        (mount / "a-large" / "train" / f"class-{number:02}").mkdir(parents=True)
    for number in range(1500):
        (mount / "a-large" / f"{number}.jpg").touch()
    shutil.copytree(archives_folder, mount / "datasets" / "owner" / "cifar-10")
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))

    assert find(tmp_path / "input").name == str(mount / "datasets" / "owner" / "cifar-10")
    assert len(scanned) <= paths.MAX_FOLDERS


def test_mount_without_the_files_is_named(mount, tmp_path):
    (mount / "animal-faces" / "test").mkdir(parents=True)

    with pytest.raises(InputError, match=rf"input does not exist \(nor does {mount} contain them\)"):
        find(tmp_path / "input")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
def test_torchvision_batches_have_test_labels(batches_folder, packed):
    if packed:
        with tarfile.open(batches_folder.parent / "cifar-10-python.tar.gz", "w:gz") as tar:
            tar.add(batches_folder, "cifar-10-batches-py")
        shutil.rmtree(batches_folder)
    source = find(batches_folder.parent)
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.arange(20) % 10).tolist()
    first = draw_image(labels[0], rng)

    assert source.ids("train").tolist() == list(range(1, 101))
    assert source.labels().labels[:20].tolist() == labels
    image_id, data = read(source, "train")[0]
    assert image_id == 1
    assert np.array_equal(source.decode(data), first)
    assert source.test_labels().ids.tolist() == list(range(1, 21))


def test_batch_that_would_run_code_is_rejected(batches_folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    batches_folder.joinpath("data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))

    with pytest.raises(InputError, match=r"data_batch_1 can't be read \(UnpicklingError: it requests builtins\.exec\)"):
        find(tmp_path).ids("train")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.zeros((2, 3072), np.uint8), [1, 2, 3], r"images uint8 \[2, 3072\] and labels \[3\], expected uint8"),
        (np.zeros((2, 100), np.uint8), [1, 2], r"images uint8 \[2, 100\] and labels \[2\], expected uint8 \[N, 3072\]"),
        (np.zeros((2, 3072), np.uint8), 7, r"and labels \[\], expected uint8"),
        (np.zeros((2, 3072), np.uint8), [1, 10], r"labels that are not in 0 to 9"),
    ],
    ids=["count", "size", "number", "label"],
)
def test_batch_of_wrong_shape_or_labels_is_rejected(batches_folder, tmp_path, rows, labels, message):
    batches_folder.joinpath("data_batch_1").write_bytes(pickle.dumps({b"data": rows, b"labels": labels}, protocol=3))

    with pytest.raises(InputError, match=rf"data_batch_1 has .*{message}"):
        find(tmp_path).ids("train")


def test_missing_batch_is_named(batches_folder, tmp_path):
    batches_folder.joinpath("data_batch_2").unlink()

    for use in (lambda source: source.ids("train"), lambda source: source.fingerprint("train")):
        with pytest.raises(InputError, match=r"cifar-10-batches-py is missing data_batch_2; download it again"):
            use(find(tmp_path))


def test_missing_input_lists_the_ways_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"(?s)input does not exist.*run\.py download.*run\.py demo.*--input DIR"):
        find(tmp_path / "input")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"contains notes\.txt but not the competition's files"):
        find(tmp_path)


def test_file_as_input_names_its_folder(zip_folder):
    with pytest.raises(InputError, match=rf"is a file, expected the folder that contains it: --input {zip_folder}"):
        find(zip_folder / CIFAR10.zip_name)


def test_web_page_saved_as_zip_asks_to_accept_the_rules(tmp_path):
    (tmp_path / CIFAR10.zip_name).write_text("\n<!DOCTYPE html><html>Accept the rules</html>")

    with pytest.raises(InputError, match=r"cifar-10\.zip is a web page, not a zip.*Accept the rules on kaggle\.com"):
        find(tmp_path).labels()


def test_truncated_zip_is_rejected(zip_folder, tmp_path):
    data = (zip_folder / CIFAR10.zip_name).read_bytes()
    (tmp_path / CIFAR10.zip_name).write_bytes(data[: len(data) // 2])

    with pytest.raises(InputError, match=r"cifar-10\.zip is not a valid zip file .*truncated or corrupted"):
        find(tmp_path).ids("train")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train.7z", r"has neither train\.7z nor a folder train/"),
        ("test.7z", r"has neither test\.7z nor a folder test/"),
        (CIFAR10.train_labels_csv, r"has images but no trainLabels\.csv"),
    ],
)
def test_missing_file_is_named(archives_folder, tmp_path, missing, message):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    (folder / missing).unlink()
    source = find(folder)

    with pytest.raises(InputError, match=message):
        source.labels() if missing.endswith(".csv") else source.ids(missing.removesuffix(".7z"))


@pytest.mark.parametrize("top", ["cifar-10", "Downloads/cifar 10"])
def test_zip_whose_files_are_in_a_folder_is_read(archives_folder, tmp_path, zip_folder, top):
    with zipfile.ZipFile(tmp_path / CIFAR10.zip_name, "w") as archive:
        archive.mkdir("cifar-10")
        for path in archives_folder.iterdir():
            archive.write(path, f"{top}/{path.name}")
            archive.writestr(f"__MACOSX/{top}/._{path.name}", b"attributes")
        archive.writestr(".DS_Store", b"attributes")

    assert content(tmp_path) == content(zip_folder)


def test_folder_that_contains_the_folder_of_the_files_names_it(archives_folder, tmp_path):
    inner = shutil.copytree(archives_folder, tmp_path / "downloads" / "cifar-10")
    shutil.copytree(archives_folder, tmp_path / "demo" / "synthetic-1")

    with pytest.raises(InputError, match=rf"downloads contains .* in {inner}: give that with --input {inner}$"):
        find(tmp_path / "downloads")
    with pytest.raises(InputError, match="contains synthetic-1 but not the competition's files"):
        find(tmp_path / "demo")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.symlink_to(path), "is a loop of symbolic links"),
        (lambda path: path.symlink_to("/no/such"), "is a link to /no/such, which does not exist"),
        (os.mkfifo, "is neither a file nor a folder"),
    ],
    ids=["nothing", "loop", "broken link", "pipe"],
)
def test_input_that_is_not_a_folder_is_named(tmp_path, make, message):
    make(tmp_path / "input")

    with pytest.raises(InputError, match=rf"input {message}"):
        find(tmp_path / "input")


def test_long_name_of_the_input_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="can't be read: the name is too long"):
        find(tmp_path / ("a" * 300))


@pytest.mark.parametrize("name", ["cifar-10.zip", "train.7z", "train/3.png", "trainLabels.csv", "sampleSubmission.csv"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_file_that_cant_be_read_is_not_called_corrupted(request, tmp_path, monkeypatch, name, number):
    form = {"cifar-10.zip": "zip_folder", "train/3.png": "images_folder"}.get(name, "archives_folder")
    folder = shutil.copytree(request.getfixturevalue(form), tmp_path / "input")
    open_path = Path.open

    def fail(path, *args, **kwargs):
        if path == folder / name:
            raise OSError(number, os.strerror(number), str(path))
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(InputError, match=rf"input/{name} can't be read: (permission|the disk)") as error:
        content(folder)
    assert not re.search("corrupted|download", str(error.value))


def test_labels_that_are_a_folder_are_named(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / CIFAR10.train_labels_csv).unlink()
    (folder / CIFAR10.train_labels_csv).mkdir()

    with pytest.raises(InputError, match=r"has images but .*trainLabels\.csv is a folder, expected a file"):
        find(folder).labels()


@pytest.mark.parametrize("form", ["archives_folder", "images_folder"])
def test_unexpected_name_is_reported_with_its_place(request, tmp_path, form):
    folder = shutil.copytree(request.getfixturevalue(form), tmp_path / "input")
    if form == "archives_folder":
        write_archive(folder / "train.7z", {"train/1.png": b"x", "train/x.png": b"x"})
    else:
        (folder / "train" / "x.png").write_bytes(b"x")
    place = r"train\.7z" if form == "archives_folder" else "train"

    with pytest.raises(
        InputError, match=rf"input/{place} contains 'train/x\.png', expected names such as train/1\.png"
    ):
        find(folder).ids("train")


def test_fingerprint_of_archive_and_zip_is_name_size_and_time(archives_folder, zip_folder):
    for folder, name in ((archives_folder, "train.7z"), (zip_folder, CIFAR10.zip_name)):
        status = (folder / name).stat()
        assert find(folder).fingerprint("train") == {
            "name": name,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }


@pytest.mark.parametrize("has_sample", [True, False])
def test_missing_test_image_is_named(images_folder, tmp_path, has_sample):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / "test" / "17.png").unlink()
    if not has_sample:
        (folder / CIFAR10.sample_submission_csv).unlink()

    with pytest.raises(InputError, match=rf"is missing image test/17\.png \(1 in all\), expected {NUM_TEST} images"):
        find(folder).ids("test")


def test_unexpected_test_image_is_named(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    shutil.copy(folder / "test" / "1.png", folder / "test" / "999.png")

    with pytest.raises(InputError, match=r"contains the unexpected image test/999\.png"):
        find(folder).ids("test")


@pytest.mark.parametrize("name", ["train/007.png", "train/x.png", "train/sub/1.png", "test/1.png"])
def test_unexpected_member_name_is_rejected(archives_folder, tmp_path, name):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    png = encode_png(draw_image(0, np.random.default_rng(0)))
    write_archive(folder / "train.7z", {"train/1.png": png, name: png})

    with pytest.raises(InputError, match=r"expected names such as train/1\.png"):
        find(folder).ids("train")


def test_duplicate_member_is_named(tmp_path, archives_folder):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    png = encode_png(draw_image(0, np.random.default_rng(0)))
    with py7zr.SevenZipFile(folder / "train.7z", "w") as archive:
        archive.writef(io.BytesIO(png), "train/5.png")
        archive.writef(io.BytesIO(png), "train/5.png")

    with pytest.raises(InputError, match=r"contains image train/5\.png more than once"):
        find(folder).ids("train")
