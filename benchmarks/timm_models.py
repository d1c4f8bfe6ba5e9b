"""Every model of timm: does it train on a task's images, or is it rejected, with what to set?

    make bench-models, or PYTHONPATH=. python benchmarks/timm_models.py [--every N] [--size PIXELS]

On the meta device, which computes nothing: a training step and a prediction of each. What fails there goes through the
trial that a command makes before it decodes anything, which must end in a ConfigError of one line.
"""

import argparse
import time
import warnings
from collections import Counter

import timm

from pipeline.errors import ConfigError
from pipeline.learning.device import Machine
from pipeline.learning.trial import passes_on_meta, try_member
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.task import CIFAR10

HINTS = ("it works with", "choose another model", "GB of memory")


def outcome(name, size=None):
    """Return what becomes of a model: "trains", the text of its rejection, or "anything else: ..."."""
    config = ModelConfig(name=name, image_size=size)
    if passes_on_meta(config, CIFAR10):
        return "trains"
    try:
        try_member("net", MemberConfig(model=config), CIFAR10, Machine())
    except ConfigError as error:
        text = str(error)
        is_clear = len(text.splitlines()) == 1 and any(hint in text for hint in HINTS)
        return text if is_clear else f"anything else: {text}"
    except Exception as error:
        return f"anything else: {error!r}"
    return "trains"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="only every N-th model")
    parser.add_argument("--size", type=int, default=None, help="model.image_size; default: that of the images")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start, counts = time.perf_counter(), Counter()
    names = timm.list_models()[:: arguments.every]
    for name in names:
        result = outcome(name, arguments.size)
        kind = result if result == "trains" else result.partition(":")[0] if result.startswith("any") else "rejected"
        counts[kind] += 1
        if result != "trains":
            print(f"{name}: {result}", flush=True)
    print(f"{len(names)} models in {time.perf_counter() - start:.0f} s: {dict(counts)}")


if __name__ == "__main__":
    main()
