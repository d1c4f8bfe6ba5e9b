"""A .7z archive -> its members, one after the other, without writing a file.

LZMA and LZMA2 streams go through the standard library's decoder in large pieces, about three times faster than py7zr's
extraction. Other compression is left to py7zr. Both run ahead in threads: a thread decodes neighbouring blocks (7-Zip's
"folders") in the order of the file, so that it reads a compressed zip around them once.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import groupby
from typing import BinaryIO

import py7zr
from py7zr.exceptions import UnsupportedCompressionMethodError
from py7zr.io import Py7zBytesIO, WriterFactory

from pipeline.cores import available_cores
from pipeline.data.paths import is_clutter
from pipeline.data.prefetch import CancelledError, Put, prefetch
from pipeline.data.read_errors import archive_errors
from pipeline.data.seven_zip_blocks import Block
from pipeline.data.seven_zip_fields import LimitError
from pipeline.data.seven_zip_header import read_header
from pipeline.data.seven_zip_methods import UnsupportedError, has_several_frames, method_names, unsupported
from pipeline.errors import InputError

Content = tuple[str, bytes]
"""Name and bytes of a member."""
Job = Callable[[Put[list[Content]]], None]

READ_SIZE = 1 << 20  # bytes
MAX_MEMBER = 1 << 20  # bytes; a larger member is not one of the competition's small images


class SevenZipReader:
    """One archive. `open_file` opens it, once per thread. Every error is an InputError that names the archive.

    `again` says how to replace a corrupted archive. Members that macOS and Windows add are left out.
    """

    def __init__(
        self, open_file: Callable[[], AbstractContextManager[BinaryIO]], name: str, again: str = "download it again"
    ) -> None:
        self._open, self._name, self._again = open_file, name, again
        with self._clear_errors(), open_file() as file:
            self._blocks, empty = read_header(file)
        members = [member for block in self._blocks for member in block.members]
        self._members = [member for member in members if not is_clutter(member.name)]
        self._has_clutter = len(self._members) < len(members)
        for member in (*(member for member in empty if not is_clutter(member.name)), *self._members):
            if not member.is_plain or not 0 < member.size <= MAX_MEMBER:
                raise InputError(
                    f"{name} contains {member.name!r} with {member.size} bytes{'' if member.is_plain else ' or a link'}"
                    f", expected images of 1 to {MAX_MEMBER} bytes; this is not the competition's archive, {again}"
                )

    def names(self) -> list[str]:
        """Return the names of the members without decoding them."""
        return [member.name for member in self._members]

    @contextmanager
    def read(self) -> Iterator[Iterator[Content]]:
        """Read ahead while the block runs, which gets name and bytes of each member, checked by its CRC-32.

        The members come in the archive's order if it is one block.
        """
        num_threads = available_cores()
        if all(block.is_lzma for block in self._blocks):
            jobs: list[Job] = [partial(self._decode, blocks) for blocks in _split(self._blocks, num_threads)]
        else:
            jobs = [self._extract]
        with prefetch([partial(self._with_clear_errors, job) for job in jobs], num_threads) as pieces:
            yield (member for members in pieces for member in members)

    def _with_clear_errors(self, job: Job, put: Put[list[Content]]) -> None:
        with self._clear_errors():
            job(put)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Convert every error into InputError."""
        try:
            with archive_errors(self._name):
                yield
        except (InputError, CancelledError):
            raise
        except LimitError as error:
            raise InputError(f"{self._name}: {error}; this is not the competition's archive, {self._again}") from None
        except (UnsupportedError, UnsupportedCompressionMethodError) as error:
            if isinstance(error, UnsupportedCompressionMethodError):
                error = unsupported(method_names(self._blocks))
            raise InputError(
                f"{self._name}: {error}, which is not supported; extract the files to a new folder and give it with "
                "--input, or compress them again with LZMA2"
            ) from None
        except Exception as error:
            # Corrupted bytes make decoders raise errors of any type, from struct.error to IndexError.
            cause = f"{type(error).__name__}: {str(error)[:120]}"
            raise InputError(
                f"{self._name} is not a valid .7z archive ({cause}); it is corrupted or truncated, {self._again}"
            ) from None

    def _decode(self, blocks: list[Block], put: Put[list[Content]]) -> None:
        """Decode blocks of LZMA and put their members, about a MB at once."""
        with self._open() as file:
            ready, size = list[Content](), 0
            for block in blocks:
                for member in self._decode_block(file, block):
                    ready.append(member)
                    size += len(member[1])
                    if size >= READ_SIZE:
                        put(ready)
                        ready, size = [], 0
            put(ready)

    def _decode_block(self, file: BinaryIO, block: Block) -> Iterator[Content]:
        stream = _Stream(decode_stream(file, block))
        for member in block.members:
            if is_clutter(member.name):
                stream.skip(member.size)
                continue
            data = stream.take(member.size)
            if len(data) < member.size:
                raise InputError(f"{self._name} ends within {member.name}; it is truncated, {self._again}")
            if member.crc is not None and zlib.crc32(data) != member.crc:
                raise InputError(f"{self._name}: wrong checksum of {member.name}; the file is corrupted, {self._again}")
            yield member.name, data

    def _extract(self, put: Put[list[Content]]) -> None:
        """Extract all members by py7zr, which checks their CRC-32 itself."""
        with self._open() as file:
            if has_several_frames(file, self._blocks):
                raise unsupported(f"{name} in several frames" for name in method_names(self._blocks))
            file.seek(0)
            with py7zr.SevenZipFile(file) as archive:
                names = self.names() if self._has_clutter else None
                archive.extract(targets=names, factory=_StreamingFactory(put))


class _Stream:
    """Pieces of bytes, taken in any other sizes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._buffer, self._start = pieces, b"", 0

    def take(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        while len(self._buffer) - self._start < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer, self._start = self._buffer[self._start :] + piece, 0
        data = self._buffer[self._start : self._start + size]
        self._start += len(data)
        return data

    def skip(self, size: int) -> None:
        """Drop so many bytes, fewer at the end."""
        while size and (data := self.take(min(size, READ_SIZE))):
            size -= len(data)


class _StreamingFactory(WriterFactory):
    """Creates the files to which py7zr writes the members, which put each member when it is complete."""

    def __init__(self, put: Put[list[Content]]) -> None:
        self._put = put

    def create(self, filename: str) -> Py7zBytesIO:
        return _StreamingMember(filename, self._put)


class _StreamingMember(Py7zBytesIO):
    def __init__(self, filename: str, put: Put[list[Content]]) -> None:
        super().__init__(filename, MAX_MEMBER)
        self._put = put

    def close(self) -> None:
        """Put the member and free its memory: py7zr keeps this object until the end."""
        self._put([(self.filename, self._buffer.getvalue())])
        self._buffer.close()


def decode_stream(file: BinaryIO, block: Block) -> Iterator[bytes]:
    """Yield the decoded bytes of a block of LZMA in pieces of a few MB."""
    decoder, size = block.decoder(), block.packed_size
    file.seek(block.position)
    while size and not decoder.eof:
        packed = file.read(min(READ_SIZE, size))
        if not packed:
            return
        size -= len(packed)
        data = decoder.decompress(packed, max_length=4 * READ_SIZE)
        while data:
            yield data
            data = b"" if decoder.needs_input or decoder.eof else decoder.decompress(b"", max_length=4 * READ_SIZE)


def _split(blocks: list[Block], num_parts: int) -> list[list[Block]]:
    """Split blocks into at most so many runs of about the same packed size."""
    if not blocks:
        return []
    start, end = blocks[0].position, blocks[-1].position + 1
    parts = groupby(blocks, key=lambda block: (block.position - start) * num_parts // (end - start))
    return [list(part) for _, part in parts]
