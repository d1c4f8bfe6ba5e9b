"""The prediction path against a plain loop, and against what the processor can do."""

import numpy as np
import torch
from timing import in_turn, ratio
from torch import nn

from pipeline.config import MachineConfig, MemberConfig, ModelConfig
from pipeline.learning.dataset import normalize
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.flops import prediction_flop
from pipeline.learning.models import create_model
from pipeline.learning.predict import for_inference, predict_logits, tta_views

NUM_IMAGES, ROUNDS, PLAIN_BATCH = 2048, 7, 512


@torch.inference_mode()
def plain_loop(model: nn.Module, images: np.ndarray) -> None:
    """What a user writes: the net in evaluation mode over batches of 512, float32."""
    for start in range(0, len(images), PLAIN_BATCH):
        model(normalize(torch.from_numpy(images[start : start + PLAIN_BATCH]), torch.device("cpu")))


@torch.inference_mode()
def forward_alone(model: nn.Module, batch: torch.Tensor, machine: Machine) -> None:
    """The nets' own share: ready tensors of the same size."""
    for _ in range(NUM_IMAGES // machine.predict_batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=machine.autocast):
            model(batch)


def matmul_peak(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a large product of matrices, the best of ten."""
    one = torch.randn(2048, 2048).to(dtype)
    seconds = in_turn({"product": lambda: one @ one}, 10)["product"]
    return 2 * 2048**3 / min(seconds) / 1e9


def main() -> None:
    """Print the ratios for both whitened nets, in float32 and, where the processor has it, in bf16."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8)
    for autocast in ("off", "auto"):
        machine = set_up_machine(MachineConfig(device="cpu", autocast=autocast))
        if autocast == "auto" and not machine.autocast:
            print("this processor does not multiply in bf16")
            continue
        peak = matmul_peak(torch.bfloat16 if machine.autocast else torch.float32)
        for name in ("airbench94", "airbench94_small"):
            member = MemberConfig(model=ModelConfig(name=name))
            plain = create_model(member.model).to(memory_format=torch.channels_last).eval()
            folded, view = for_inference(plain, machine), tta_views("identity")
            batch = normalize(torch.from_numpy(images[: machine.predict_batch]), machine.device)
            seconds = in_turn(
                {
                    "plain": lambda model=plain: plain_loop(model, images),
                    "ours": lambda model=folded, view=view, m=machine: predict_logits(model, images, view, m),
                    "forward": lambda model=folded, batch=batch, m=machine: forward_alone(model, batch, m),
                },
                ROUNDS,
            )
            speed = NUM_IMAGES / sorted(seconds["ours"])[ROUNDS // 2]
            reached = speed * prediction_flop(member, "identity", 1) / 1e9
            print(
                f"{name}, {'bf16' if machine.autocast else 'float32'}: {speed:,.0f} images/s of one view, "
                f"{ratio(seconds, 'plain', 'ours')} times the plain loop; share of the forward pass "
                f"{ratio(seconds, 'forward', 'ours')}; {reached:.0f} GFLOP/s of {peak:.0f} in a product of matrices"
            )


if __name__ == "__main__":
    main()
