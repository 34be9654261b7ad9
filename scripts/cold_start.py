"""Time ``spinemets detect`` from the start of its process to the first operation of its network.

    python scripts/cold_start.py data_samples/nifti/cervicothoracic_T2w.nii.gz

Each run is a process of its own, on the processor, that ends where the network would begin: by
then everything is imported, the study is read, the model is loaded and the image is prepared.
The first run may have to read the libraries from disk; the median of all is given with the range.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import time

# The module of the networks is caught as it is loaded, so that nothing is imported earlier than usual.
_CHILD = """
import sys
from importlib.util import find_spec

class Catch:
    def find_spec(self, name, path=None, target=None):
        if name != "spinemets.execution":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.FusedNetwork.run = first_operation
        spec.loader.exec_module = exec_module
        return spec

def first_operation(*arguments):
    import json, os, time
    facts = {"time": time.time(), "modules": list(sys.modules)}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os._exit(0)

sys.meta_path.insert(0, Catch())
from spinemets.cli import main
main(sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What it took to come to the network: seconds, and the names of the modules imported by then."""

    seconds: float
    modules: frozenset[str]


def cold_start(study: Path) -> ColdStart:
    """Run ``spinemets detect`` on one study up to the first operation of its network.

    Raises
    ------
    RuntimeError
        The command ended before.
    """
    with TemporaryDirectory() as folder:
        facts_path = Path(folder) / "facts.json"
        arguments = ["detect", str(study), "--output", str(Path(folder) / "out"), "--device", "cpu"]
        start = time()
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(facts_path), *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        if not facts_path.is_file():
            raise RuntimeError(f"spinemets detect came to no network: {done.stderr.strip()}")
        facts = json.loads(facts_path.read_text(encoding="utf-8"))
    return ColdStart(facts["time"] - start, frozenset(facts["modules"]))


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="a file or folder of one study")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.study.exists():
        parser.error(f"{arguments.study}: no such file or folder")
    try:
        runs = [cold_start(arguments.study) for _ in range(arguments.repeats)]
    except RuntimeError as error:
        print(f"cold_start: {error}", file=sys.stderr)
        return 1
    seconds = sorted(run.seconds for run in runs)
    print(
        f"{median(seconds):.2f} s to the first operation of the network "
        f"({seconds[0]:.2f} to {seconds[-1]:.2f} s in {len(runs)} runs); "
        f"{len(runs[-1].modules)} modules imported"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
