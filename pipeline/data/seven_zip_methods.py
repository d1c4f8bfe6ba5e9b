"""Which compression methods of .7z archives can be decoded: by lzma, and by py7zr with its libraries."""

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.data.seven_zip_blocks import LZMA1, LZMA2, Block

# 7-Zip's DOC/Methods.txt and, for 04f711.., the methods of 7-Zip-zstd
NAMES = {
    "00": "Copy", "03": "Delta", "04": "BCJ", "05": "PPC", "06": "IA64", "07": "ARM", "08": "ARMT", "09": "SPARC",
    "0a": "ARM64", "0b": "RISCV", "21": "LZMA2", "020302": "SWAP2", "020304": "SWAP4", "030101": "LZMA",
    "03030103": "BCJ", "0303011b": "BCJ2", "03030205": "PPC", "03030301": "Alpha", "03030401": "IA64",
    "03030501": "ARM", "03030605": "M68", "03030701": "ARMT", "03030805": "SPARC", "030401": "PPMd",
    "040108": "Deflate", "040109": "Deflate64", "040202": "BZip2", "04f71101": "Zstandard", "04f71102": "Brotli",
    "04f71104": "LZ4", "04f71105": "LZ5", "04f71106": "Lizard", "06f00181": "AES", "06f10701": "AES",
}  # fmt: skip
ZSTANDARD, BROTLI = b"\x04\xf7\x11\x01", b"\x04\xf7\x11\x02"
DELTA, IA64 = b"\x03", b"\x03\x03\x04\x01"
BRANCH_FILTERS = set(map(bytes.fromhex, ("03030103", "03030205", "03030501", "03030701", "03030805")))
# The filters after each method. Not PPMd: the decoder that py7zr takes corrupts memory if the archive is corrupted.
FILTERS: dict[bytes, set[bytes]] = {
    LZMA2: BRANCH_FILTERS | {DELTA, IA64},
    LZMA1: BRANCH_FILTERS | {DELTA},
    **dict.fromkeys(map(bytes.fromhex, ("00", "040108", "040109", "040202")), BRANCH_FILTERS),
    **dict.fromkeys((ZSTANDARD, BROTLI), BRANCH_FILTERS),
}
MAX_FILTERS = {LZMA2: 3}  # one after the other methods
KNOWN = set(FILTERS).union(*FILTERS.values())
# The start of a frame that other programs write before each part of a stream, so that threads can decode the parts.
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18"


MAX_LITERAL_BITS = 4  # lc + lp, of liblzma; 7-Zip's default is 3


class UnsupportedError(Exception):
    """A method that can't be decoded; the message names it."""


def check_methods(blocks: Iterable[Block]) -> None:
    """Raises UnsupportedError that names a method, or says that the archive is encrypted."""
    for method, properties in {coder for block in blocks for coder in block.coders}:
        if method == LZMA1 and len(properties) == 5 and _num_literal_bits(properties[0]) > MAX_LITERAL_BITS:
            raise unsupported(["LZMA with lc + lp over 4"])
    for coders, is_chain in {(tuple(method for method, _ in block.coders), block.is_chain) for block in blocks}:
        names = [_name(method) for method in coders]
        if "AES" in names:
            raise UnsupportedError("it is encrypted with a password")
        compression, *filters = coders
        is_known = is_chain and FILTERS.get(compression, set()).issuperset(filters) and compression in FILTERS
        if not is_known or len(filters) > MAX_FILTERS.get(compression, 1):
            raise unsupported([_name(method) for method in coders if method not in KNOWN] or names)


def _num_literal_bits(properties: int) -> int:
    """Return lc + lp of the first byte of LZMA's properties."""
    return properties % 9 + properties // 9 % 5


def unsupported(names: Iterable[str]) -> UnsupportedError:
    """Return the error for methods."""
    return UnsupportedError(f"it is compressed with {' and '.join(dict.fromkeys(names))}")


def has_several_frames(file: BinaryIO, blocks: Iterable[Block]) -> bool:
    """Return whether a block is in frames, of which py7zr decodes only the first one."""
    for block in blocks:
        if block.coders[0][0] in (ZSTANDARD, BROTLI):
            file.seek(block.position)
            if file.read(len(SKIPPABLE_FRAME)) == SKIPPABLE_FRAME:
                return True
    return False


def method_names(blocks: Iterable[Block]) -> list[str]:
    """Return the names of all methods of blocks."""
    return sorted({_name(method) for block in blocks for method, _ in block.coders})


def _name(method: bytes) -> str:
    return NAMES.get(method.hex(), f"the method {method.hex()}")
