import re
import shutil
import subprocess
import zipfile

import pytest
from conftest import NUM_TRAIN
from test_source import find, read

from pipeline.data.source import find_source_or_none
from pipeline.errors import InputError
from pipeline.task import CIFAR10


def split_into_parts(folder, numbers=(1, 2, 3), form="03"):
    data = (folder / "train.7z").read_bytes()
    (folder / "train.7z").unlink()
    size = len(data) // len(numbers) + 1
    for number in numbers:
        (folder / f"train.7z.{number:{form}}").write_bytes(data[(number - 1) * size : number * size])


def replace_archive(make, name="train"):
    def change(folder):
        (folder / "train.7z").unlink()
        make(folder / name)

    return change


def zip_as(rename, names=("train.7z", "test.7z", CIFAR10.train_labels_csv)):
    """Replace the files of a folder by a zip with some of them under other names."""

    def change(folder):
        with zipfile.ZipFile(folder / CIFAR10.zip_name, "w") as archive:
            for name in names:
                archive.write(folder / name, rename(name))
        for name in ("train.7z", "test.7z", CIFAR10.train_labels_csv, CIFAR10.sample_submission_csv):
            (folder / name).unlink()

    return change


def zip_images(folder):
    with zipfile.ZipFile(folder / CIFAR10.zip_name, "w") as archive:
        for number in range(1, 4):
            archive.writestr(f"cifar/train/{number}.png", b"")
    (folder / "train.7z").unlink()


AGAIN = r"download it again: python run\.py download --again --input "
MISSING = {
    "no archive": (lambda folder: (folder / "train.7z").unlink(), AGAIN),
    "parts": (
        split_into_parts,
        r"train\.7z\.001, .*join the parts of train\.7z: cat .*7z\.\[0-9\]\[0-9\]\[0-9\] > .*7-Zip",
    ),
    "a part is missing": (lambda folder: split_into_parts(folder, (1, 3)), r"the part train\.7z\.002 is missing"),
    "a far part": (lambda folder: split_into_parts(folder, (2, 9999)), r"the part train\.7z\.001 is missing"),
    "capitals": (lambda folder: (folder / "train.7z").rename(folder / "Train.7Z"), "rename Train.7Z to train.7z"),
    "second download": (
        lambda folder: (folder / "train.7z").rename(folder / "train (1).7z"),
        r"rename train \(1\)\.7z to train\.7z",
    ),
    "another type": (
        lambda folder: (folder / "train.7z").rename(folder / "train.tar.gz"),
        r"extract train\.tar\.gz: a folder train/ is read as it is",
    ),
    "loop of links": (
        replace_archive(lambda path: path.symlink_to(path)),
        "train is a loop of symbolic links, expected",
    ),
    "broken link": (
        replace_archive(lambda path: path.symlink_to("/no/such")),
        r"train is a link to /no/such, which does not exist, expected a folder of images",
    ),
    "file": (
        replace_archive(lambda path: path.write_text("x")),
        r"train is a file, expected a folder of images: rename it, to train\.7z if it is the archive",
    ),
    "folder as archive": (
        replace_archive(lambda path: path.mkdir(), "train.7z"),
        r"train\.7z is a folder, expected an archive: rename or remove it",
    ),
    "folder as zip": (
        replace_archive(lambda path: path.mkdir(), CIFAR10.zip_name),
        r"cifar-10\.zip is a folder, expected a zip: rename or remove it",
    ),
    "zip without it": (
        zip_as(lambda name: name, ["test.7z", CIFAR10.train_labels_csv]),
        rf"cifar-10\.zip contains test\.7z, trainLabels\.csv; {AGAIN}",
    ),
    "zip with capitals": (
        zip_as(str.upper),
        r"cifar-10\.zip contains TRAIN\.7Z, TEST\.7Z, TRAINLABELS\.CSV; unzip cifar-10\.zip to a new folder",
    ),
    "zip of several folders": (
        zip_as(lambda name: f"{name[:2]}/{name}"),
        r"contains tr/train\.7z, te/test\.7z, tr/trainLabels\.csv; unzip cifar-10\.zip to a new folder",
    ),
    "zip of images": (zip_images, r"contains cifar/train/1\.png, .*; unzip cifar-10\.zip to a new folder"),
}


@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("use", ["ids", "read", "fingerprint"])
def test_missing_images_are_one_error_with_what_was_found_and_what_to_do(archives_folder, tmp_path, case, use):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    change, message = MISSING[case]
    change(folder)
    source = find(folder)

    with pytest.raises(InputError, match=r"input has neither train\.7z nor a folder train/ .*it contains .*") as error:
        list(read(source, "train")) if use == "read" else getattr(source, use)("train")
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["03", ""], ids=["three digits", "no leading zeros"])
def test_advice_to_join_the_parts_works(archives_folder, tmp_path, form):
    folder = shutil.copytree(archives_folder, tmp_path / "an input")
    split_into_parts(folder, range(1, 13), form)
    with pytest.raises(InputError) as error:
        find(folder).ids("train")
    command = re.search(r"cat .*(?= \(on Windows)", str(error.value))[0]

    subprocess.run(["sh", "-c", command], check=True)
    assert find(folder).ids("train").tolist() == list(range(1, NUM_TRAIN + 1))


@pytest.mark.parametrize("names", [["trainLabels.csv"], ["train.7z.001", "test.7z.001"], ["Train.7z"], ["train.zip"]])
def test_folder_with_a_part_of_the_files_is_taken_as_kaggles(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("x")

    with pytest.raises(InputError, match=r"has neither train\.7z nor a folder train/"):
        find(tmp_path).fingerprint("train")
    assert find_source_or_none(tmp_path, CIFAR10) is None
