"""An input folder without a split's images -> what was found, what was expected, and what to do."""

import re
from pathlib import Path

from pipeline.advice import download_again, shell_command
from pipeline.data.paths import describe_path, exists, is_file, list_names, visible_names
from pipeline.data.zip_reader import MAX_DIRECTORY, ZipReader
from pipeline.task import SPLITS, Split, Task


def explain_missing(folder: Path, task: Task, split: Split, zip_reader: ZipReader | None) -> str:
    """Return the message for a split that is neither in the zip of a folder, nor an archive or a folder beside it."""
    archive, found = task.archive_name(split), visible_names(folder)
    advice = (
        _join_parts(folder, [task.zip_name, archive], found)
        or _replace(folder, task, split)
        or _unzip(task, split, zip_reader)
        or _rename([task.zip_name, archive, split], found)
        or _extract(split, found)
        or f"download it again: {download_again(folder)}"
    )
    if zip_reader is None:
        in_zip = ""
    elif zip_reader.members is None:
        in_zip = (
            f"; {task.zip_name} has a list of members of more than {MAX_DIRECTORY:,} bytes, expected a few archives"
        )
    else:
        in_zip = f"; {task.zip_name} contains {list_names(zip_reader.members)}"
    return (
        f"{folder} has neither {archive} nor a folder {split}/ (nor {archive} in {task.zip_name}): "
        f"it contains {list_names(found)}{in_zip}; {advice}"
    )


def is_partial(folder: Path, task: Task) -> bool:
    """Return whether a folder contains Kaggle's files in part or under other names, which `explain_missing` names."""
    found, names = visible_names(folder), [*_names(task), *SPLITS]
    return bool(
        _join_parts(folder, names, found)
        or _rename(names, found)
        or any(_extract(split, found) for split in SPLITS)
        or set(found).intersection(names)
    )


def _names(task: Task) -> list[str]:
    return [task.zip_name, task.train_archive, task.test_archive, task.train_labels_csv]


def _join_parts(folder: Path, names: list[str], found: list[str]) -> str:
    """Return how to join an archive in parts, such as train.7z.001, .002."""
    for name in names:
        suffixes = [other.rpartition(".")[2] for other in found if _is_part(other, name)]
        numbers = set(map(int, suffixes))
        if not numbers or name in found:
            continue
        if gaps := set(range(1, max(numbers) + 1)) - numbers:
            return f"the part {name}.{min(gaps):03} is missing: put all parts of {name} there, then join them"
        path = shell_command([str(folder / name)])
        # One pattern per number of digits: a shell sorts 10 before 2.
        parts = " ".join(f"{path}.{'[0-9]' * num_digits}" for num_digits in sorted(set(map(len, suffixes))))
        return f"join the parts of {name}: cat {parts} > {path} (on Windows: 7-Zip, Combine files)"
    return ""


def _is_part(name: str, whole: str) -> bool:
    return re.fullmatch(re.escape(whole) + r"\.[0-9]{1,4}", name) is not None


def _replace(folder: Path, task: Task, split: Split) -> str:
    """Return what to do about a path of an expected name that is something else."""
    path, archive = folder / split, folder / task.archive_name(split)
    if is_file(path):
        return f"{path} is a file, expected a folder of images: rename it, to {archive.name} if it is the archive"
    for other, expected in ((path, "a folder of images"), (archive, "an archive"), (folder / task.zip_name, "a zip")):
        if exists(other) and not is_file(other):
            return (
                f"{other} {describe_path(other)}, expected {expected}: rename or remove it, then put {expected} there"
            )
    return ""


def _unzip(task: Task, split: Split, zip_reader: ZipReader | None) -> str:
    """Return what to do with a zip that has a split's files in another form, or too many to list."""
    if zip_reader is None:
        return ""
    paths = zip_reader.members
    if paths is not None and not any(_is_of(task, split, path) for path in paths):
        return ""
    return f"unzip {task.zip_name} to a new folder, and give that with --input"


def _is_of(task: Task, split: Split, path: str) -> bool:
    """Return whether a path in a zip is that of a split's images, of its archive under another name, or of a zip."""
    *folders, base = path.replace("\\", "/").split("/")
    archives = (task.archive_name(split), task.zip_name)
    return (split in folders and base.endswith(".png")) or any(
        _normalize(base) == name.lower() or _is_part(base, name) for name in archives
    )


def _rename(names: list[str], found: list[str]) -> str:
    """Return which file to rename: capital letters differ, or a browser has numbered it."""
    for name in names:
        for other in found:
            if name not in found and _normalize(other) == name.lower():
                return f"rename {other} to {name}"
    return ""


def _normalize(name: str) -> str:
    return re.sub(r" ?\(\d+\)(?=\.|$)", "", name).lower()


def _extract(split: Split, found: list[str]) -> str:
    """Return which archive of another type to extract."""
    others = [name for name in found if re.fullmatch(rf"{split}\.(zip|rar|tgz|tar|tar\.\w+)", name)]
    return f"extract {others[0]}: a folder {split}/ is read as it is" if others else ""
