"""The fields of a .7z header: numbers, bit vectors and checksums, none read beyond the end or above its limit."""

import numpy as np

MAX_HEADER = 1 << 26  # bytes; that of 300,000 images takes 11 MB
MAX_MEMBERS = 500_000


class LimitError(Exception):
    """A header claims more than the competition's archives could have."""


class FieldReader:
    """The bytes of a header, read one field after the other. Raises ValueError at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        data = self._data[self._position : self._position + size]
        if len(data) < size:
            raise ValueError("the header is truncated")
        self._position += size
        return data

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self._data[self._position :]

    def byte(self) -> int:
        """Read one byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """Read a number of 1 to 9 bytes: the leading ones of the first byte count the bytes that follow."""
        first = self.byte()
        if first < 0x80:
            return first
        num_more = 8 - (first ^ 0xFF).bit_length()
        low = int.from_bytes(self.take(num_more), "little")
        return low | (first & (0x7F >> num_more)) << (8 * num_more)

    def count(self, limit: int = MAX_MEMBERS) -> int:
        """Read a count of members or parts. Raises LimitError above the limit, before memory is allocated for them."""
        count = self.number()
        check_limit(count, limit, "{:,} members or parts")
        return count

    def bits(self, size: int) -> list[bool]:
        """Read a bit vector."""
        packed = np.frombuffer(self.take((size + 7) // 8), np.uint8)
        return np.unpackbits(packed)[:size].astype(bool).tolist()

    def optional_bits(self, size: int) -> list[bool]:
        """Read a byte that means that all bits are set, or else a bit vector."""
        return [True] * size if self.byte() else self.bits(size)

    def crcs(self, size: int) -> list[int | None]:
        """Read CRC-32 values, of which some may be undefined."""
        is_defined = self.optional_bits(size)
        values = iter(np.frombuffer(self.take(4 * sum(is_defined)), "<u4").tolist())
        return [next(values) if defined else None for defined in is_defined]

    def expect(self, field: int) -> None:
        """Read the id of a field. Raises ValueError if it is another one."""
        found = self.byte()
        if found != field:
            raise ValueError(f"the header has the field {found}, expected {field}")


def check_limit(found: int, limit: int, what: str) -> None:
    """Raises LimitError if a header claims more than the competition's archives could have."""
    if found > limit:
        raise LimitError(f"it claims {what.format(found)}, expected at most {limit:,}")


def unknown_field(field: int) -> ValueError:
    """Return the error for a field that the format does not have here."""
    return ValueError(f"the header has the unknown field {field}")
