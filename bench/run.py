"""Run benchmarks one after the other: `python bench/run.py [NAME ...] [--check] [--quick]`, or `make bench ARGS=...`.

Never two at once: each measures by turns within its own process, and a second one would be its noise.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import measure

HERE: Final = Path(__file__).parent
WORK: Final = HERE.parent / "build" / "bench"
DATA: Final = HERE.parents[1] / "shared" / "data"

BENCHMARKS: Final[dict[str, tuple[str, ...]]] = {
    "floor": (),
    "peers": ("--work", str(WORK / "peers"), "--peers", str(WORK / "environments")),
    "pipelines": ("--peers", str(WORK / "environments")),
    "passes": (),
    "fusions": (),
    "quantization": ("--work", str(WORK)),
    "release": (),
    "calibration": (),
    "weight_only": (),
    "compression": (str(DATA), "--work", str(WORK)),
}
"""Their names, and what each needs besides --check and --quick."""

DEFAULT: Final = ("floor", "peers", "passes", "fusions", "quantization", "release")
"""What runs unasked; the others train or calibrate for long."""


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ({', '.join(BENCHMARKS)})")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {unknown[0]!r}; available: {', '.join(BENCHMARKS)}")
    flags = [flag for flag, given in (("--check", arguments.check), ("--quick", arguments.quick)) if given]
    WORK.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for name in arguments.names or DEFAULT:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *BENCHMARKS[name], *flags]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nFailed, or missed an ask under --check: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
