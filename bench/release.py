"""What a release costs and what verification catches.

1. `enginery verify` of a bundle of 1 GB against `sha256sum` over the same files, both as processes, in turns.
2. Manifest, report and parts list as a share of the wall of a cold MiniLM build. With --quick they are written for
   digits and nothing is judged: most of the seconds are the imports, and that build is short.
3. Random one-byte changes over a real, signed bundle, each verified with the key: all must be refused.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Ask, conclude, interleaved, options, print_machine, print_table

from enginery.errors import IntegrityError
from enginery.pipeline.bundle import SUMS, Bundle, file_records, verify_bundle, write_sums
from enginery.pipeline.bundle.signature import write_public_key
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.files import files_below, pretty_json
from enginery.pipeline.release.bom import render_bom
from enginery.pipeline.release.sign import sign_bundle
from enginery.pipeline.report import read_report, write_report

ENGINERY = [sys.executable, "-P", "-m", "enginery"]
GIGABYTE = 1_000_000_000


def main() -> int:
    arguments = options(__doc__ or "").parse_args()
    print_machine("model-signing", "cyclonedx-python-lib", "jinja2")
    with tempfile.TemporaryDirectory(prefix="enginery-bench-") as folder:
        work = Path(folder)
        small, wall = build("digits", work / "digits")
        asks = [
            verify_speed(small, work, rounds=3 if arguments.quick else 7),
            flips(small, work, count=500 if arguments.quick else 10_000),
        ]
        share = paperwork(*((small, wall) if arguments.quick else build("minilm", work / "minilm")))
        asks += [] if arguments.quick else [share]
    return conclude(asks, check=arguments.check)


def build(recipe: str, output: Path) -> tuple[Path, float]:
    """Build a recipe with nothing cached; the bundle and the seconds."""
    begin = time.perf_counter()
    command = [*ENGINERY, "build", recipe, "--output", output, "--allow", "speed", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "ENGINERY_STORE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Path(json.loads(done.stdout)["bundle"]), time.perf_counter() - begin


def verify_speed(small: Path, work: Path, rounds: int) -> Ask:
    bundle = Path(shutil.copytree(small, work / "large"))
    with (bundle / "engine" / "weights.data").open("wb") as file:
        for _ in range(GIGABYTE // 10_000_000):
            file.write(os.urandom(10_000_000))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    names = [*manifest["files"], "engine/weights.data"]
    manifest["files"] = {name: record.model_dump() for name, record in file_records(bundle, names).items()}
    (bundle / "manifest.json").write_text(pretty_json(manifest))
    write_sums(bundle)
    files = [path for path in files_below(bundle) if path.name != SUMS]
    times = interleaved(
        {
            "sha256sum": lambda: subprocess.run(["sha256sum", *files], check=True, capture_output=True),
            "enginery verify": lambda: subprocess.run([*ENGINERY, "verify", bundle], check=True, capture_output=True),
        },
        rounds=rounds,
        warmup=1,
    )
    theirs, ours = times["sha256sum"].median, times["enginery verify"].median
    print_table(("verify of 1 GB", "seconds"), [("sha256sum", theirs), ("enginery verify", ours)])
    shutil.rmtree(bundle)
    return Ask("verify of 1 GB, seconds over (1.1 x sha256sum + 0.3)", ours / (1.1 * theirs + 0.3), 1.0)


def paperwork(bundle: Path, wall: float) -> Ask:
    """Write manifest, report and parts list again, imports included: a process of its own would pay them too."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, Path(__file__).absolute(), "--paperwork", bundle], check=True)
    seconds = time.perf_counter() - begin
    print_table(("paperwork", "seconds"), [("build", wall), ("manifest, report, parts list", seconds)])
    return Ask(f"manifest, report and parts list over the build of {bundle.parent.name}", seconds / wall, 0.02)


def write_paperwork(bundle: Path) -> None:
    manifest, report = Bundle.open(bundle).manifest, read_report(bundle)
    measured = Measured.from_json(
        {
            "faults": [],
            "cases": [case.model_dump(mode="json") for case in report.cases],
            "evaluation": [output.model_dump(mode="json") for output in report.evaluation],
            "metric": None,
            "session": {},
            "kernels": report.kernels,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bom.cdx.json").write_text(render_bom(manifest, measured))
        (Path(folder) / "manifest.json").write_text(manifest.to_json())
        write_report(report, Path(folder))


def flips(small: Path, work: Path, count: int) -> Ask:
    """Change one byte, verify, change it back. Half of the places are drawn by byte, half by file."""
    bundle = Path(shutil.copytree(small, work / "flips"))
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", work / "key.pem"]
    subprocess.run(make, check=True, capture_output=True)
    write_public_key(work / "key.pem", work / "key.pub")
    sign_bundle(bundle, work / "key.pem")
    verify_bundle(bundle, public_key=work / "key.pub")
    files = [path for path in files_below(bundle) if path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    generator, accepted = random.Random(0), 0
    for turn in range(count):
        path = generator.choices(files, sizes)[0] if turn % 2 else generator.choice(files)
        accepted += not refused(path, bundle, work / "key.pub", generator)
    verify_bundle(bundle, public_key=work / "key.pub")
    print(f"\n{count} one-byte changes over {len(files)} files, {sum(sizes):,} bytes: {count - accepted} refused")
    return Ask("one-byte changes that were accepted", accepted, 0)


def refused(path: Path, bundle: Path, key: Path, generator: random.Random) -> bool:
    place, change = generator.randrange(path.stat().st_size), generator.randrange(1, 256)
    exchange(path, place, change)
    try:
        verify_bundle(bundle, public_key=key)
    except IntegrityError:
        return True
    else:
        return False
    finally:
        exchange(path, place, change)


def exchange(path: Path, place: int, change: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ change]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--paperwork"]:
        write_paperwork(Path(sys.argv[2]))
        sys.exit(0)
    sys.exit(main())
