"""The notebook's network in PyTorch, eager and compiled, for ``benchmark.py gpu``; used where PyTorch is installed."""

from collections.abc import Callable
from typing import Any

import benchmark_ways as ways
import torch
from benchmark_ways import Sizes, Way
from torch import nn

FILTERS, UNITS = (32, 32, 64, 128), 256  # trainer/models/networks/cnn.py, which imports Keras.


def hello() -> dict[str, Any]:
    """Return versions and devices."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"gpus": gpus, "versions": {"torch": torch.__version__}}


def build(way: Way, sizes: Sizes) -> tuple[Callable[[], Any], Callable[[], Any], float]:
    """Return a train step with Adam in autocast, how to wait for it, and its images."""
    assert way.precision == ways.BFLOAT16
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net: Any = _network(sizes.image_size).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    images = torch.rand(sizes.batch_size, 3, sizes.image_size, sizes.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (sizes.batch_size,), device=device)
    forward = torch.compile(net) if way.xla else net

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return step, torch.cuda.synchronize if device == "cuda" else lambda: None, float(sizes.batch_size)


def _network(side: int) -> nn.Sequential:
    layers: list[Any] = []
    channels = 3
    for filters in FILTERS:
        layers += [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]
        channels, side = filters, (side - 2) // 2
    head = [nn.Linear(side * side * channels, UNITS), nn.ReLU(), nn.Dropout(0.2), nn.Linear(UNITS, 2)]
    return nn.Sequential(*layers, nn.Flatten(), *head)
