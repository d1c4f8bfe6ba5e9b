"""Randomly corrupted bytes: a result or a clear error, in bounded time. `make fuzz` searches by coverage."""

import random
import time

import pytest
from fuzz.targets import make_targets

TARGETS = make_targets()
SECONDS = 0.15


def corrupt(data, rng):
    """Change, cut, repeat or insert a few bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(data) + 1)
        change = rng.randrange(5)
        if change == 0 and position < len(data):
            data[position] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[position : position + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif change == 2:
            del data[position:]
        elif change == 3:
            data[position:position] = data[position : position + rng.randint(1, 64)]
        elif position + 4 <= len(data):
            data[position : position + 4] = rng.choice([b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f"])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_bytes_are_read(name):
    target = TARGETS[name]

    assert target.seeds
    target.try_bytes(target.seeds[0])


@pytest.mark.parametrize("name", TARGETS)
def test_corrupted_bytes_are_rejected_or_read(name):
    target, rng = TARGETS[name], random.Random(7)
    deadline, num_tried = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline or num_tried < 20:
        data = corrupt(rng.choice(target.seeds), rng)
        started = time.monotonic()
        try:
            target.try_bytes(data)
        except Exception as error:
            raise AssertionError(f"{name} does not report these bytes: {data[:500]!r}") from error
        assert time.monotonic() - started < 20
        num_tried += 1
