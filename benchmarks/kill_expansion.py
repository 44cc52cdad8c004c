"""Kill an expansion again and again, at random, and compare the end with an uninterrupted run.

    python benchmarks/kill_expansion.py -d 900 -f 0 -preset tiny -kills 30 -n 40

Two parts run at the same time into the dataset's pool and are killed with SIGKILL; the same commands are then run to
their end. Voxels, records and index must be equal to those of one uninterrupted run, with no case missing, doubled, or
left over. The pool of that fold is replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import blosc2

from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.expansion.places import pool_folder


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes, or of its voxels: blosc2's threads finish in any order."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(content(p)).hexdigest() for p in files}


def content(file: Path) -> bytes:
    """Voxels of a preprocessed array, bytes of any other file."""
    return blosc2.open(str(file), mode="r")[:].tobytes() if file.suffix == ".b2nd" else file.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", default="0")
    parser.add_argument("-preset", default="tiny")
    parser.add_argument("-n", default="40")
    parser.add_argument("-kills", type=int, default=30)
    parser.add_argument("-seed", type=int, default=0)
    args = parser.parse_args()
    command = [
        str(Path(sys.executable).parent / "sbldm_expand_dataset"),
        *("-d", args.d, "--pool", "-f", args.f, "-preset", args.preset, "-n", args.n, "-device", "cpu", "-steps", "10"),
    ]
    dataset = open_dataset(args.d)
    pool = pool_folder(dataset.preprocessed, dataset.config.data_identifier, args.f)
    shutil.rmtree(pool, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - start
    expected = tree(pool)
    print(f"uninterrupted: {seconds:.0f} s, {len(expected)} files", flush=True)

    shutil.rmtree(pool)
    rng, parts = random.Random(args.seed), [[*command, "-num_parts", "2", "-part_id", str(i)] for i in range(2)]
    for kill in range(args.kills):
        running = [subprocess.Popen(p, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for p in parts]
        time.sleep(rng.uniform(3, 14))
        for process in running:
            process.kill()
            process.wait()
        written = len(list(pool.glob("provenance/*.json")))
        print(f"kill {kill + 1:2d}: {written} cases written", flush=True)
    for part in parts:
        subprocess.run(part, check=True, capture_output=True)
    found = tree(pool)
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    print(f"after {args.kills} kills of two parts: {len(found)} files, {len(wrong)} unlike the uninterrupted run {wrong[:5]}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
