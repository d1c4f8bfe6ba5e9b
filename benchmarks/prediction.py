"""The prediction path against a plain loop, and against the processor's peak."""

import numpy as np
import torch
from timing import ratio, time_alternately
from torch import nn

from pipeline.config import MachineConfig
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.flops import prediction_flops
from pipeline.learning.inputs import InputSpec
from pipeline.learning.models import create_model
from pipeline.learning.predict import for_inference, predict_logits, tta_views
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.task import CIFAR10

NUM_IMAGES, NUM_ROUNDS, PLAIN_BATCH = 2048, 7, 512
CPU = torch.device("cpu")
MODELS = (
    ModelConfig(name="airbench94"),
    ModelConfig(name="airbench94_small"),
    ModelConfig(name="tf_efficientnet_lite0", image_size=128),  # that of finetune.yaml, with random weights
)


@torch.inference_mode()
def plain_loop(model: nn.Module, spec: InputSpec, images: np.ndarray) -> None:
    """Do what users write: the model in evaluation mode on batches of 512, in float32."""
    for start in range(0, len(images), PLAIN_BATCH):
        model(spec.to_input(torch.from_numpy(images[start : start + PLAIN_BATCH]), CPU))


@torch.inference_mode()
def forward_only(model: nn.Module, inputs: torch.Tensor, machine: Machine) -> None:
    """Run the forward passes alone, on prepared inputs of the same size."""
    for _ in range(NUM_IMAGES // machine.predict_batch_size):
        with torch.autocast("cpu", torch.bfloat16, enabled=machine.autocast):
            model(inputs)


def matmul_peak(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a large matrix product, the best of ten."""
    matrix = torch.randn(2048, 2048).to(dtype)
    seconds = time_alternately({"product": lambda: matrix @ matrix}, 10)["product"]
    return 2 * 2048**3 / min(seconds) / 1e9


def time_model(member: MemberConfig, machine: Machine, images: np.ndarray) -> dict[str, list[float]]:
    """Return the seconds of the plain loop, of our prediction with one TTA view, and of its forward passes."""
    model, spec = create_model(member.model, CIFAR10)
    model = model.to(memory_format=torch.channels_last).eval()
    fused, views = for_inference(model, machine), tta_views("none")
    inputs = spec.to_input(torch.from_numpy(images[: machine.predict_batch_size]), machine.device)
    return time_alternately(
        {
            "plain": lambda: plain_loop(model, spec, images),
            "ours": lambda: predict_logits(fused, spec, images, views, machine),
            "forward": lambda: forward_only(fused, inputs, machine),
        },
        NUM_ROUNDS,
    )


def main() -> None:
    """Print the ratios for each model, in float32 and, where the processor supports it, in bf16."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *CIFAR10.image_shape), np.uint8)
    for autocast in ("off", "auto"):
        machine = set_up_machine(MachineConfig(device="cpu", autocast=autocast))
        if autocast == "auto" and not machine.autocast:
            print("this processor does not multiply in bf16")
            continue
        peak = matmul_peak(torch.bfloat16 if machine.autocast else torch.float32)
        for model in MODELS:
            member = MemberConfig(model=model)
            seconds = time_model(member, machine, images)
            speed = NUM_IMAGES / sorted(seconds["ours"])[NUM_ROUNDS // 2]
            reached = speed * prediction_flops(member, CIFAR10, "none") / 1e9
            print(
                f"{model.name}, {'bf16' if machine.autocast else 'float32'}: {speed:,.0f} images/s with one TTA view, "
                f"{ratio(seconds, 'plain', 'ours')} times the plain loop; share of the forward pass "
                f"{ratio(seconds, 'forward', 'ours')}; {reached:.0f} GFLOP/s of {peak:.0f} in a matrix product"
            )


if __name__ == "__main__":
    main()
