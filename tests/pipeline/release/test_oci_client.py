"""Tools of others take the layout: skopeo sends it to a registry on the loopback and brings it back."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.release.oci import export_oci

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("skopeo") is None or shutil.which("docker-registry") is None,
        reason="no skopeo and docker-registry on this machine (packages of Debian)",
    ),
]


@pytest.fixture
def registry(tmp_path):
    """The address of an empty registry."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = {"version": "0.1", "storage": storage, "http": {"addr": address}}
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    command = ["docker-registry", "serve", tmp_path / "registry.yml"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://{address}/v2/")
            yield address
        finally:
            server.terminate()


def wait_for(address):
    for _ in range(100):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def skopeo(*words):
    done = subprocess.run(["skopeo", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_registry_gives_back_the_signed_bundle_with_the_digest_that_was_announced(registry, signed, keys, tmp_path):
    done = export_oci(signed, tmp_path / "layout", tag="v1")
    address = f"docker://{registry}/models/tiny:v1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{done.layout}:v1", address)
    (tmp_path / "manifest.json").write_bytes(skopeo("inspect", "--raw", "--tls-verify=false", address))
    assert skopeo("manifest-digest", str(tmp_path / "manifest.json")).decode().strip() == done.digest
    skopeo("copy", "--src-tls-verify=false", address, f"oci:{tmp_path / 'back'}:v1")
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    for layer in manifest["layers"]:
        path = tmp_path / "pulled" / layer["annotations"]["org.opencontainers.image.title"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "back" / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:"), path)
    pulled = verify_bundle(tmp_path / "pulled", public_key=keys / "ours.pub")
    assert pulled.digest == verify_bundle(signed).digest
