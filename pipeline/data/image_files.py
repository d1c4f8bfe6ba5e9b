"""Image files of any size and format -> uint8 [size, size, 3], RGB. The only module that imports Pillow."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from pipeline.error_messages import explain_cause, on_one_line
from pipeline.errors import InputError
from pipeline.task import Image

# Not all that Pillow reads: some formats start other programs, or accept any file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_MEGAPIXELS = 89  # Pillow's own limit, beyond which it warns
DRAFT_FACTOR = 4  # a JPEG is decoded at a fraction of its size, but at this factor of the wanted one at least
MAX_16_BIT = 65_535
WHITE = (255, 255, 255, 255)


def find_image_files(path: Path) -> Iterator[Path | InputError]:
    """Yield a file; of a folder, the images in it and its subfolders, sorted by path, known by their endings.

    What can't be read is yielded as an error.
    """
    if not path.is_dir():
        yield path
        return
    Pillow.init()
    endings = {ending for ending, name in Pillow.registered_extensions().items() if name in FORMATS}
    found, errors = list[Path](), list[InputError]()

    def on_error(error: OSError) -> None:
        errors.append(InputError(f"{error.filename}: {explain_cause(error)}"))

    for folder, _, names in os.walk(path, onerror=on_error):
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in endings and name[0] != "."]
    yield from errors
    yield from sorted(found)
    if not found and not errors:
        yield InputError(f"{path}: contains no image files ({', '.join(FORMATS)})")


def read_image_file(path: Path, size: int) -> Image:
    """Return the square in the middle of an image, resized to uint8 [size, size, 3].

    Turned as its EXIF data says, on white where it is transparent; the first frame of an animation. Raises InputError
    that starts with the path.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that break a rule of their format
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            return _read(path, size)
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not an image ({', '.join(FORMATS)}), or is corrupted") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise InputError(f"{path}: is too large, expected at most {MAX_MEGAPIXELS} megapixels") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        # Corrupted bytes make Pillow raise errors of any class.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: {explain_cause(error)}") from None
        raise InputError(f"{path}: is corrupted: {on_one_line(error) or type(error).__name__}") from None


def _read(path: Path, size: int) -> Image:
    with Pillow.open(path, formats=FORMATS) as image:
        image.draft(None, (DRAFT_FACTOR * size, DRAFT_FACTOR * size))
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
    # An image of the wanted size keeps its pixels.
    return np.asarray(ImageOps.fit(rgb, (size, size), method=Pillow.Resampling.BICUBIC))


def _to_rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I"):
        pixels = np.asarray(image).clip(0, MAX_16_BIT) // (MAX_16_BIT // 255)
        return Pillow.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError("its pixels are floating-point numbers, expected whole numbers of 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
