"""What tensors free stays with the process, whatever TensorFlow tells malloc."""

import subprocess
import sys

import pytest

# Pages that the kernel hands out while 200 tensors of 4 MB are made and freed, one after the other.
_SCRIPT = """
import resource
import tensorflow as tf
from trainer.core.config import DataConfig, RuntimeConfig
from trainer.distributed import strategy

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        tf.zeros([2**20]) + 1.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def generate():
    return list(tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec([], tf.int32)))

{first}
generate()
faults()
print(faults())
"""


def faults_after(first):
    script = _SCRIPT.format(first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_tensors_are_made_of_the_same_pages_again():
    pages = 200 * 4 * 2**20 // 4096
    assert faults_after("strategy.setup(RuntimeConfig(num_devices=2), DataConfig())") < pages / 20
    assert faults_after("") > pages / 2, "TensorFlow leaves malloc alone now: trainer/distributed/malloc.py can go"
