"""The run's seed and names -> derived seeds: of a fold, an epoch, a batch."""

import zlib

import numpy as np


def fold_seed(seed: int, member: str, fold: int) -> int:
    """Return the seed of a member's fold (from 0)."""
    return derive_seed(seed, member, fold)


def derive_seed(seed: int, *names: int | str) -> int:
    """Return a 32-bit seed: a pure function of the seed and all names."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    # The number of names comes first, because SeedSequence pads with zeros: (a,) and (a, 0) would be the same.
    return int(np.random.SeedSequence((len(words), seed, *words)).generate_state(1)[0])
