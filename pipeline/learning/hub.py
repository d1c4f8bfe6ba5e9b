"""Downloads of timm's pretrained weights: one clear error, soon, where there is no internet."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import timm
from huggingface_hub import constants

from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError

TIMEOUT = 5.0  # seconds until the hub counts as unreachable
FILE_NAME = "model.safetensors"


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Convert errors of the download of a model's weights, in the block, into ConfigError.

    Without a connection only files that were downloaded before are used, and nothing is tried again: the hub's own
    attempts take a minute.
    """
    pretrained_cfg = timm.get_pretrained_cfg(name)
    url = getattr(pretrained_cfg, "url", "") or ""
    hub_id = getattr(pretrained_cfg, "hf_hub_id", None)
    if not url and not hub_id:
        raise ConfigError(
            f"model.pretrained: timm has no pretrained weights of {name}; set model.pretrained: false, or give a file "
            "in model.weights"
        )
    address = f"{constants.ENDPOINT}/{hub_id}/resolve/main/{FILE_NAME}" if hub_id else url
    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = offline or not _is_reachable(constants.ENDPOINT if hub_id else url)
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        # huggingface_hub and the network raise a dozen unrelated classes here.
        reason = "no connection" if constants.HF_HUB_OFFLINE else f"{type(error).__name__}: {on_one_line(error)}"
        raise ConfigError(
            f"model.pretrained: the weights of {name} can't be downloaded ({reason}); connect to the internet, or "
            f"download {address} on another machine and set model.weights to that file"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _is_reachable(url: str) -> bool:
    """Return whether a server answers, whatever it says, within a few seconds."""
    answered = threading.Event()

    def call() -> None:
        try:
            requests.head(url, timeout=TIMEOUT)
        except (requests.RequestException, OSError):
            return
        answered.set()

    # In a thread of its own: the look-up of a name has no time-out.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answered.is_set()
