"""Copies between a GPU and the host that do not wait for the work that is queued on the GPU."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device."""
    if device.type == "cuda":
        # Only from pinned memory does a copy run beside the work of the GPU.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Readback:
    """The values of a small tensor, copied to the host before the operations that are queued after it."""

    def __init__(self, tensor: Tensor) -> None:
        is_on_gpu = tensor.device.type == "cuda"
        self._copy = tensor.detach().to("cpu", non_blocking=is_on_gpu)
        self._event = torch.cuda.Event() if is_on_gpu else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def values(self) -> list[float]:
        """Return the values, as soon as the copy is complete."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._copy.tolist()]
