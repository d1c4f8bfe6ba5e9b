"""How many cores this process may use."""

import joblib

from pipeline.errors import ConfigError


def available_cores() -> int:
    """Return the number of cores, which CPU affinity and container limits may restrict. Raises ConfigError."""
    try:
        return joblib.cpu_count()
    except ValueError as error:
        raise ConfigError(
            f"the number of cores is set to an invalid value ({error}); unset the variable LOKY_MAX_CPU_COUNT"
        ) from None
