"""One seed and the names of a thing -> the seed of that thing: a fold, an epoch, a batch."""

import zlib

import numpy as np


def fold_seed(seed: int, member: str, fold: int) -> int:
    """Return the seed of a member on a fold (from 0) of a run."""
    return derive_seed(seed, member, fold)


def derive_seed(seed: int, *names: int | str) -> int:
    """Return 32 bits that depend on the seed and on every name, and on nothing that ran before."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    # The number of names is one of the words: numpy takes (a,) and (a, 0) for the same.
    return int(np.random.SeedSequence((len(words), seed, *words)).generate_state(1)[0])
