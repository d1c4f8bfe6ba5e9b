"""Alternating timings of two or more functions."""

import statistics
import time
from collections.abc import Callable, Mapping


def time_alternately(functions: Mapping[str, Callable[[], object]], num_rounds: int) -> dict[str, list[float]]:
    """Return the seconds [num_rounds] of each function, after one warm-up call of each."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> str:
    """Format the ratio of two functions' seconds: median of the rounds, and range."""
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)})"
