"""The roofline of the notebook's network: what each layer costs at least, and on which card.

  python scripts/benchmark.py roofline
  python scripts/benchmark.py roofline --model=cnn_bn --batch_size=64
  python scripts/benchmark.py roofline --write=docs/performance.md

A layer takes at least max(FLOPs / peak rate, bytes / memory bandwidth) (Williams, Waterman and Patterson 2009,
"Roofline", CACM 52(4)).  FLOPs: 2 for each multiply-add of a product; the forward pass has one product for each layer
with a kernel, the backward pass two (gradients of the kernel and of the input), but for the first layer, whose input
needs no gradient.  Bytes: each layer reads its operands once and writes its results once; bias, ReLU and dropout are
part of the layer before them.  Weights and Adam are read and written once a step, so each image has its part of them.
Real kernels move more: the sums are lower bounds.
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmark_recipes import write_table

from trainer.distributed.accelerators import ACCELERATORS, Accelerator

BEGIN = "<!-- table: scripts/benchmark.py roofline -->"
CARDS = ("T4", "L4", "A100 80 GB", "H100", "H200")
HALF, SINGLE = 2, 4  # Bytes of bfloat16 or float16, and of float32.
# Adam reads weight, gradient and two averages, and writes all but the gradient, in float32.
_ADAM_BYTES = 7 * SINGLE


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs and bytes of memory traffic of one image."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the lower bound of the time."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What a layer costs at least, an image.

    Attributes:
        name: of the layer.
        output: its shape.
        forward: pass.
        backward: pass.
    """

    name: str
    output: tuple[int, ...]
    forward: Work
    backward: Work = Work()

    @property
    def both(self) -> Work:
        """Return the sum of both passes."""
        return self.forward + self.backward


def costs(model: Any, batch_size: int, activation_bytes: int = HALF) -> list[LayerCost]:
    """Return the costs of a train step, layer by layer, the pixels first and the optimizer last.

    Args:
        model: a Keras model of the registry, or any of its kinds of layers.
        batch_size: images of a step, among which the cost of weights is divided.
        activation_bytes: of a number between two layers.
    """
    inputs = tuple(model.input.shape[1:])
    pixels = LayerCost("pixels", inputs, Work(0.0, math.prod(inputs) * (1 + activation_bytes)))
    layers = [
        cost for layer in model.layers if (cost := _layer(layer, inputs, batch_size, activation_bytes)) is not None
    ]
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return [pixels, *layers, LayerCost("Adam", (parameters,), Work(0.0, _ADAM_BYTES * parameters / batch_size))]


def _layer(layer: Any, pixels: tuple[int, ...], batch_size: int, width: int) -> LayerCost | None:
    """Return the cost of one layer; None if it moves nothing by itself."""
    kind = type(layer).__name__
    if kind in ("InputLayer", "Flatten", "SlotDropout", "Dropout"):
        return None
    output = tuple(layer.output.shape[1:])
    read, written = math.prod(layer.input.shape[1:]), math.prod(output)
    if kind == "Activation":  # Part of the layer before it; its gradient needs the sign of what it put out.
        return LayerCost(layer.name, output, Work(), Work(0.0, width * written))
    if kind in ("Conv2D", "Dense"):
        return LayerCost(layer.name, output, *_product(layer, read, written, pixels, batch_size, width))
    if kind == "MaxPooling2D":  # Its gradient looks for the maxima again, as those of TensorFlow and XLA do.
        return LayerCost(
            layer.name, output, Work(0.0, width * (read + written)), Work(0.0, width * (2 * read + written))
        )
    # Normalisation over a batch: read for the statistics, read again, write; the gradient likewise with two operands.
    return LayerCost(layer.name, output, Work(0.0, width * 3 * read), Work(0.0, width * 5 * read))


def _product(
    layer: Any, read: int, written: int, pixels: tuple[int, ...], batch_size: int, width: int
) -> tuple[Work, Work]:
    """Return both passes of a convolution or a dense layer."""
    kernel = math.prod(layer.kernel.shape)
    flops = 2.0 * written * kernel / layer.kernel.shape[-1]
    is_first = tuple(layer.input.shape[1:]) == pixels
    has_mask = layer.activation.__name__ == "relu"
    forward = Work(flops, width * (read + written + kernel / batch_size))
    # Gradient of the output, mask of ReLU, input and kernel are read; gradients of input and kernel are written.
    traffic = written * (1 + has_mask) + read * (1 if is_first else 2) + 2 * kernel / batch_size
    return forward, Work(flops * (1 if is_first else 2), width * traffic)


def total(layers: Sequence[LayerCost]) -> Work:
    """Return the cost of a step, an image."""
    return sum((layer.both for layer in layers), Work())


def bound(layers: Sequence[LayerCost], flops_per_second: float, bytes_per_second: float) -> float:
    """Return the least seconds of an image: each pass of each layer is limited by arithmetic or by memory."""
    passes = [work for layer in layers for work in (layer.forward, layer.backward)]
    return sum(work.seconds(flops_per_second, bytes_per_second) for work in passes)


def card(name: str) -> Accelerator:
    """Return a card by its name."""
    return next(each for each in ACCELERATORS if each.name == name)


def table(layers: Sequence[LayerCost]) -> Iterator[str]:
    """Yield the Markdown table: a row for each layer, then the sums and the images a second that they allow."""
    cards = [card(name) for name in CARDS]
    head = ["layer", "output", "MFLOP forward", "backward", "MB forward", "backward", "FLOP a byte"]
    yield _line([*head, *(f"µs, {each.name}" for each in cards)])
    yield _line(["---"] * (len(head) + len(cards)))
    for layer in layers:
        yield _line([layer.name, _shape(layer.output), *_work(layer.forward, layer.backward), *_times([layer], cards)])
    forward = sum((layer.forward for layer in layers), Work())
    backward = sum((layer.backward for layer in layers), Work())
    yield _line(["**sum**", "", *_work(forward, backward), *_times(layers, cards)])
    rates = [f"{1 / _seconds(layers, each):,.0f}" for each in cards]
    yield _line(["images/s at most", *[""] * (len(head) - 1), *rates])
    rates = [f"{each.half_tflops * 1e12 / total(layers).flops:,.0f}" for each in cards]
    yield _line(["images/s if memory were free", *[""] * (len(head) - 1), *rates])


def _seconds(layers: Sequence[LayerCost], each: Accelerator) -> float:
    return bound(layers, each.half_tflops * 1e12, each.memory_gb_per_s * 1e9)


def _times(layers: Sequence[LayerCost], cards: Sequence[Accelerator]) -> list[str]:
    return [f"{1e6 * _seconds(layers, each):.2f}" for each in cards]


def _work(forward: Work, backward: Work) -> list[str]:
    both = forward + backward
    values = (forward.flops / 1e6, backward.flops / 1e6, forward.bytes / 1e6, backward.bytes / 1e6)
    return [*(f"{value:.2f}" for value in values), f"{both.flops / both.bytes:.0f}"]


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(f"{side:,}" for side in shape)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@functools.cache
def costs_of(name: str, image_size: int, batch_size: int, activation_bytes: int = HALF) -> Sequence[LayerCost]:
    """Return the costs of a network by the value of ``--model``."""
    from trainer.core.config import ModelConfig  # Late: Keras takes seconds to load, and --help needs none of it.
    from trainer.models import registry

    model = registry.logits_of(registry.build(ModelConfig(model=name), num_classes=2, image_size=image_size, seed=0))
    return costs(model, batch_size, activation_bytes)


def page(name: str = "cnn", image_size: int = 224, batch_size: int = 256) -> list[str]:
    """Return the lines of docs/performance.md between its marks, and what the command prints."""
    layers = costs_of(name, image_size, batch_size)
    what = f"`{name}` at {image_size} pixels, two classes, batch {batch_size}, bfloat16 (T4: float16); an image."
    return [what, "", *table(layers)]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="cnn", choices=("cnn", "cnn_bn"), help="(default cnn)")
    made.add_argument("--image_size", type=int, default=224, help="pixels (default 224)")
    made.add_argument("--batch_size", type=int, default=256, help="images (default 256)")
    made.add_argument("--write", default="", help="also replace the table in this page")
    return made


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    arguments = parser().parse_args(argv)
    lines = page(arguments.model, arguments.image_size, arguments.batch_size)
    print("\n".join(lines))
    if arguments.write:
        write_table(Path(arguments.write), lines, begin=BEGIN)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
