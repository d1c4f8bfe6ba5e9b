from pipeline.learning.seeding import derive_seed


def test_every_name_counts_and_nothing_else_does():
    seeds = [
        derive_seed(*names) for names in ((0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, 1, "a"), (0, 1), (0, 1, 0))
    ]

    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_stay_what_they_were():
    """Kept runs go on with them: a change here changes their bytes."""
    assert (derive_seed(0, "whitened", 1), derive_seed(7, 3, 42)) == (1835861699, 2321434471)
