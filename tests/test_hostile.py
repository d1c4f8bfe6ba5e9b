"""Bytes that were harmed by chance: a result or a clear error, in bounded time. `make fuzz` searches further."""

import random
import time

import pytest
from fuzz.targets import make_targets

TARGETS = make_targets()
SECONDS = 0.15


def harmed(data, rng):
    """Change, cut, repeat or insert a few bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data[place:place] = data[place : place + rng.randint(1, 64)]
        elif place + 4 <= len(data):
            data[place : place + 4] = rng.choice([b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f"])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_good_bytes_are_read(name):
    target = TARGETS[name]

    assert target.seeds
    target.try_bytes(target.seeds[0])


@pytest.mark.parametrize("name", TARGETS)
def test_harmed_bytes_are_refused_or_read(name):
    target, rng = TARGETS[name], random.Random(7)
    deadline, tried = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline or tried < 20:
        data = harmed(rng.choice(target.seeds), rng)
        began = time.monotonic()
        try:
            target.try_bytes(data)
        except Exception as error:
            raise AssertionError(f"{name} does not tell of these bytes: {data[:500]!r}") from error
        assert time.monotonic() - began < 20
        tried += 1
