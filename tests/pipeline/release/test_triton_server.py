"""A real Triton (NVIDIA's wheel, `make triton`) loads, warms up and serves what was exported, over the loopback.

The wheel has no ONNX Runtime backend, so Triton's own way of writing a backend in Python stands in for it: everything
but the run of the model is Triton's.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle

from enginery.pipeline.npz import read_npz

pytest.importorskip("tritonclient", reason="the extra `triton` is not installed")

from enginery.pipeline.release.triton import export_triton
from enginery.pipeline.release.triton_lint import lint_model

pytestmark = pytest.mark.slow

BACKEND = """
import json, os, pathlib
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(str(folder / config["default_model_filename"]))
        self.inputs = [item["name"] for item in config["input"]]
        self.outputs = [item["name"] for item in config["output"]]
        self.log = pathlib.Path(args["model_repository"]) / "rows.log"

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            with self.log.open("a") as log:
                log.write(f"{len(next(iter(feeds.values())))}\\n")
            values = self.session.run(self.outputs, feeds)
            tensors = [triton.Tensor(name, value) for name, value in zip(self.outputs, values)]
            answers.append(triton.InferenceResponse(tensors))
        return answers
"""


@pytest.fixture(scope="module")
def triton(repository, tmp_path_factory):
    """(the server's program, a folder of backends, the environment's folder)."""
    root = Path(os.environ.get("ENGINERY_TRITON", repository / ".triton"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = root / "lib" / f"python{version}" / "site-packages" / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / version
    if not (home / "bin" / "tritonserver").is_file() or not stub.is_dir():
        pytest.skip("no Triton for this Python; `make triton` installs one")
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(home / "backends" / "python", backends / "python")
    shutil.copy(stub / "triton_python_backend_stub", backends / "python")
    (backends / "python" / "triton_python_backend_stub").chmod(0o755)
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(BACKEND)
    return home / "bin" / "tritonserver", backends, root


@contextmanager
def serving(triton, models, log):
    """Run Triton over a repository and yield its address once every model is ready."""
    program, backends, root = triton
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, f"--model-repository={models}", f"--backend-directory={backends}", f"--http-port={port}"]
    command += ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    command += ["--disable-auto-complete-config"]
    libraries = program.parents[3] / "nvidia_pytriton.libs"
    path = f"{root.absolute() / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(libraries), "VIRTUAL_ENV": str(root)}
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, server, log)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=60)


def wait_until_ready(address, server, log):
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.25)
    raise AssertionError(log.read_text()[-3000:])


def ask(address, path, document=None):
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(f"{address}/v2/models/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"Triton says: {error.read().decode()}") from error


def infer(address, model, x):
    inputs = [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]
    (output,) = ask(address, f"{model}/infer", {"inputs": inputs})["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_triton_serves_the_golden_answers(triton, tmp_path):
    bundle, models = make_bundle(tmp_path / "bundle"), tmp_path / "models"
    exported = export_triton([bundle], models)
    with serving(triton, models, tmp_path / "log") as address:
        config = ask(address, "tiny/config")
        warmed = (exported.folder / "rows.log").read_text().split()
        for case in ("min", "opt", "max"):
            x = read_npz(bundle / f"golden/{case}.inputs.npz")["x"]
            expected = read_npz(bundle / f"golden/{case}.outputs.npz")["y"]
            np.testing.assert_allclose(infer(address, "tiny", x), expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(AssertionError, match="batch-size must be <= 8"):
            infer(address, "tiny", np.zeros((9, 6), np.float32))
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [6]
    # The golden inputs ran before the first request, one sample each.
    assert warmed == ["1", "1", "1"]


def test_a_second_version_replaces_the_first(triton, tmp_path):
    models = tmp_path / "models"
    export_triton([make_bundle(tmp_path / "a")], models)
    newer = make_bundle(tmp_path / "b", seed=1)
    assert export_triton([newer], models).version == 2
    with serving(triton, models, tmp_path / "log") as address:
        x = read_npz(newer / "golden/opt.inputs.npz")["x"]
        expected = read_npz(newer / "golden/opt.outputs.npz")["y"]
        np.testing.assert_allclose(infer(address, "tiny", x), expected, rtol=1e-5, atol=1e-6)
        assert ask(address, "tiny")["versions"] == ["2"]


def edit(folder, old, new):
    config = folder / "config.pbtxt"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))


SILENT = {
    "an input twice": (
        lambda folder: (
            edit(folder, "output {", 'input {\n  name: "x"\n  data_type: TYPE_FP32\n  dims: 6\n}\noutput {'),
            strip_warmups(folder),
        ),
        "input 'x' stands there 2 times",
    ),
    "a path as file name": (
        lambda folder: edit(folder, '"model.onnx"', '"../1/model.onnx"'),
        "is a path",
    ),
    "batching without batches": (
        lambda folder: (
            edit(folder, "max_batch_size: 8\n", ""),
            edit(folder, "  dims: 6\n}\noutput", "  dims: -1\n  dims: 6\n}\noutput"),
            edit(folder, "  dims: 3\n}", "  dims: -1\n  dims: 3\n}"),
            edit(folder, "dynamic_batching {\n  preferred_batch_size: 8\n", "dynamic_batching {\n"),
            strip_warmups(folder),
        ),
        "dynamic batching with max_batch_size 0",
    ),
}


def strip_warmups(folder):
    from google.protobuf import text_format

    from enginery.pipeline.release.triton_lint import read_config

    config = read_config(folder / "config.pbtxt")
    del config.model_warmup[:]
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.mark.parametrize("what", SILENT)
def test_triton_says_nothing_where_our_lint_does(triton, tmp_path, what):
    change, words = SILENT[what]
    folder = export_triton([make_bundle(tmp_path / "bundle")], tmp_path / "models").folder
    change(folder)
    assert any(words in fault for fault in lint_model(folder)), lint_model(folder)
    with serving(triton, tmp_path / "models", tmp_path / "log") as address:
        assert ask(address, "tiny/config")["name"] == "tiny"
