"""Cards are recognised by the names that TensorFlow gives them."""

import pytest

from trainer.distributed import accelerators


@pytest.mark.parametrize(("device_name", "name"), [
    ("Tesla T4", "T4"),
    ("NVIDIA L4", "L4"),
    ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
    ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
    ("NVIDIA H100 PCIe", "H100 PCIe"),
    ("NVIDIA H100 80GB HBM3", "H100"),
    ("NVIDIA H200", "H200"),
])  # fmt: skip
def test_card_is_found_by_its_device_name(device_name: str, name: str) -> None:
    card = accelerators.find(device_name)
    assert card is not None
    assert card.name == name


def test_unknown_card_has_no_figures() -> None:
    assert accelerators.find("NVIDIA L40S") is None
