from pipeline.learning.seeding import derive_seed


def test_seed_is_a_pure_function_of_all_names():
    seeds = [
        derive_seed(*names) for names in ((0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, 1, "a"), (0, 1), (0, 1, 0))
    ]

    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_never_change():
    """Existing runs depend on them."""
    assert (derive_seed(0, "whitened", 1), derive_seed(7, 3, 42)) == (1835861699, 2321434471)
