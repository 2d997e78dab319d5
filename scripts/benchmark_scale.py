"""Memory and time of large sets: one pass over packed images, and the first batch of a million entries.

  python scripts/benchmark_scale.py --images=100000 --entries=1000000

Packs 1,000 small pictures, repeats their shard under other names as often as needed, and runs each measurement in
its own process.  Prints a Markdown table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.perf_counter()  # Before the imports, which belong to the time to the first batch.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PICTURES = 1000


def main() -> None:
    """Run all measurements, or in a child process one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="of the whole pass (default 100,000)")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the first batch (default 1,000,000)")
    parser.add_argument("--data_dir", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data_dir:
        print(json.dumps(measure(arguments.data_dir, arguments.steps)))
        return
    print(
        "| what | images in the set | read | to the first batch, s | images/s | peak memory, MB |\n" + "|---" * 6 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        pictures = pack_pictures(Path(folder))
        cases = [("a whole pass", arguments.images, 0), ("the first 10 batches", arguments.entries, 10)]
        for what, entries, steps in [("the first 10 batches", PICTURES, 10), *cases]:
            data_dir = repeat(pictures, Path(folder) / str(entries), entries)
            command = [sys.executable, __file__, f"--data_dir={data_dir}", f"--steps={steps}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(f"| {what} | {entries:,} | {row['read']:,} | {row['first']:.1f} | {row['rate']:,.0f} | "
                  f"{row['peak'] / 1e6:,.0f} |", flush=True)  # fmt: skip


def pack_pictures(folder: Path) -> Path:
    """Pack 1,000 noisy JPEGs of 64 pixels in one shard."""
    import numpy as np
    from PIL import Image

    from trainer.data import manifest
    from trainer.data.pack import writer
    from trainer.data.pack.request import PackFlags

    random = np.random.default_rng(0)
    for number in range(PICTURES):
        path = folder / "data" / "Train" / ("Fake", "Real")[number % 2] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(path, quality=80)
    request = PackFlags(data_dir=str(folder / "data"), out=str(folder / "packed"))
    writer.pack(request, manifest.read_all_splits(request.data_dir))
    return folder / "packed"


def repeat(packed: Path, out: Path, entries: int) -> Path:
    """Write a packed set of ``entries``: copies of the shard (links from the 101st on) with an index of all."""
    import io

    import numpy as np

    from trainer.data import tfrecord as packed_lib

    out.mkdir()
    content = json.loads((packed / packed_lib.MANIFEST).read_text())
    entry = content["splits"]["Train"]
    (shard,) = entry["shards"]
    copies = entries // PICTURES
    entry["shards"] = [{**shard, "path": f"Train-{number:05d}.tfrecord"} for number in range(copies)]
    content = (packed / shard["path"]).read_bytes()
    for number, each in enumerate(entry["shards"]):
        if number < 100:
            (out / each["path"]).write_bytes(content)
        else:
            os.link(out / entry["shards"][0]["path"], out / each["path"])
    with np.load(packed / entry["index"]) as arrays:
        index = {name: np.tile(arrays[name], copies) for name in ("labels", "offset", "length", "crc")}
    index["shard"] = np.repeat(np.arange(copies, dtype=np.int32), PICTURES)
    order = np.argsort(index["labels"], kind="stable")  # Sorted by class, as every manifest.
    names = packed_lib.Names.of([f"Train/{('Fake', 'Real')[label]}/{number:09d}.jpg"
                                 for number, label in enumerate(index["labels"][order])])  # fmt: skip
    file = io.BytesIO()
    np.savez(file, **{name: column[order] for name, column in index.items()}, **names.arrays())  # type: ignore[arg-type]
    (out / entry["index"]).write_bytes(file.getvalue())
    entry["index_crc32c"], entry["images"] = packed_lib.checksum(file.getvalue()), copies * PICTURES
    (out / packed_lib.MANIFEST).write_text(json.dumps(content))
    return out


def measure(data_dir: str, steps: int) -> dict[str, float]:
    """Read batches of 256 as training does; return images read, seconds to the first batch, images/s, peak bytes."""
    from trainer.core.config import DataConfig
    from trainer.data import manifest, pipeline
    from trainer.data.bad_images import BadImages
    from trainer.data.image_source import ImageSource
    from trainer.data.order import Order

    split = manifest.read_split(data_dir, "Train")
    order = Order(len(split), 256)
    batches = pipeline.batches(
        split, ImageSource(split, DataConfig(image_size=64)), order, BadImages("", 0.0, write=False),
        augmentation="notebook",
        share=pipeline.ReplicaShare(), start_step=0, stop_step=steps or order.steps_per_pass,
    )  # fmt: skip
    read, first = 0, 0.0
    for batch in batches:
        first = first or time.perf_counter()
        read += int(batch["weight"].numpy().sum())
    seconds = time.perf_counter() - first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"read": read, "first": first - BEGAN, "rate": read / max(seconds, 1e-9), "peak": peak}


if __name__ == "__main__":
    main()
