import base64
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from enginery.errors import IntegrityError, MissingDependencyError, UsageError
from enginery.pipeline.bundle import SUMS, verify_bundle, write_sums
from enginery.pipeline.cli.main import cli
from enginery.pipeline.files import sha256_file
from enginery.pipeline.release.sign import sign_bundle

TOOL = [sys.executable, "-P", "-m", "model_signing"]


def test_signing_adds_two_files_and_changes_no_other(bundle, keys):
    before = {path.name: sha256_file(path) for path in bundle.rglob("*") if path.is_file() and path.name != SUMS}
    manifest = verify_bundle(bundle).manifest_digest
    signed = sign_bundle(bundle, keys / "ours.pem")
    after = {path.name: sha256_file(path) for path in bundle.rglob("*") if path.is_file() and path.name != SUMS}
    assert after.keys() - before.keys() == {"model.sig", "provenance.intoto.jsonl"}
    assert before.items() <= after.items()
    assert signed.signed
    assert signed.manifest_digest == manifest


def test_signing_reports_what_verifying_finds(bundle, keys):
    signed = sign_bundle(bundle, keys / "ours.pem")
    verified = verify_bundle(bundle, public_key=keys / "ours.pub")
    assert verified.digest == signed.digest
    assert verified.sums == signed.sums


def test_sha256sum_agrees_about_a_signed_bundle(signed):
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", SUMS], cwd=signed, check=True)


def test_the_openssf_tool_verifies_our_signature(signed, keys):
    command = [*TOOL, "verify", "key", signed, "--signature", signed / "model.sig", "--public_key", keys / "ours.pub"]
    subprocess.run(command, check=True, capture_output=True)


def test_we_verify_what_the_openssf_tool_signed(bundle, keys):
    ignore = ["--ignore-paths", bundle / SUMS]
    command = [*TOOL, "sign", "key", bundle, "--signature", bundle / "model.sig", "--private_key", keys / "ours.pem"]
    subprocess.run([*command, *ignore], check=True, capture_output=True)
    write_sums(bundle)
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed


def test_a_key_on_another_curve(bundle, keys):
    sign_bundle(bundle, keys / "large.pem")
    assert verify_bundle(bundle, public_key=keys / "large.pub").signed


def test_an_encrypted_key_needs_its_password(bundle, keys, tmp_path):
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "ec", "-in", keys / "ours.pem", "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    with pytest.raises(UsageError, match=r"locked\.pem"):
        sign_bundle(bundle, locked)
    sign_bundle(bundle, locked, password="secret")
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed


def test_signing_again_replaces_the_signature(signed, keys):
    sign_bundle(signed, keys / "theirs.pem")
    assert verify_bundle(signed, public_key=keys / "theirs.pub").signed


@pytest.mark.parametrize("left", ["model.sig", "provenance.intoto.jsonl"])
def test_a_signing_that_was_killed_can_be_done_again(bundle, keys, left):
    """Killed between the files: one of them is there and SHA256SUMS knows nothing of it."""
    (bundle / left).write_text("half")
    with pytest.raises(IntegrityError, match=left):
        verify_bundle(bundle)
    sign_bundle(bundle, keys / "ours.pem")
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed


def test_what_a_killed_signing_left_beside_the_files_is_swept(signed, keys):
    (signed / ".model.sig.0123abcd").write_text("half")
    with pytest.raises(IntegrityError, match=r"\.model\.sig\.0123abcd is not part of the bundle"):
        verify_bundle(signed)
    sign_bundle(signed, keys / "ours.pem")
    assert verify_bundle(signed, public_key=keys / "ours.pub").signed


def test_a_full_disk_leaves_the_bundle_as_it_was(signed, keys):
    """A limit on the size of files stands in for the disk: the provenance does not fit."""
    before = verify_bundle(signed, public_key=keys / "ours.pub").digest
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from enginery.pipeline.cli.main import cli; cli()"
    command = [sys.executable, "-P", "-c", limit, "sign", signed, "--key", keys / "ours.pem"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Error: File too large" in done.stderr
    assert verify_bundle(signed, public_key=keys / "ours.pub").digest == before


def test_a_link_to_a_bundle_is_signed_and_verified(bundle, keys, tmp_path):
    """Deployments point `current` at a version."""
    link = tmp_path / "current"
    link.symlink_to(bundle)
    sign_bundle(link, keys / "ours.pem")
    assert verify_bundle(link, public_key=keys / "ours.pub").signed
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed
    assert link.is_symlink()


def test_signings_at_once_leave_a_signed_bundle(bundle, keys):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sign_bundle(bundle, keys / "ours.pem"), range(8)))
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed


def test_a_folder_that_is_no_bundle_is_not_signed(keys, tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        sign_bundle(tmp_path / "nowhere", keys / "ours.pem")
    with pytest.raises(UsageError, match="is not a bundle"):
        sign_bundle(tmp_path, keys / "ours.pem")


def test_a_changed_bundle_is_not_signed(bundle, keys):
    (bundle / "report.md").write_text("better")
    with pytest.raises(IntegrityError, match=r"report\.md"):
        sign_bundle(bundle, keys / "ours.pem")
    assert not (bundle / "model.sig").exists()


@pytest.mark.parametrize("content", ["", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"])
def test_a_private_key_that_is_none(bundle, tmp_path, content, keys):
    (tmp_path / "key.pem").write_text(content)
    with pytest.raises(UsageError, match=r"key\.pem"):
        sign_bundle(bundle, tmp_path / "key.pem")
    assert not (bundle / "model.sig").exists()


def test_the_signature_names_every_file_but_itself_and_the_sums(signed):
    envelope = json.loads((signed / "model.sig").read_bytes())["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    names = {resource["name"] for resource in payload["predicate"]["resources"]}
    present = {path.relative_to(signed).as_posix() for path in signed.rglob("*") if path.is_file()}
    assert present - names == {"model.sig", SUMS}


def test_the_command_signs_and_writes_the_public_half(bundle, keys, tmp_path):
    public = tmp_path / "public.pem"
    arguments = ["sign", str(bundle), "--key", str(keys / "ours.pem"), "--write-public-key", str(public), "--json"]
    signed = CliRunner().invoke(cli, arguments)
    assert signed.exit_code == 0, signed.output
    assert public.read_text() == (keys / "ours.pub").read_text()
    verified = CliRunner().invoke(cli, ["verify", str(bundle), "--public-key", str(public), "--json"])
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["digest"] == json.loads(signed.stdout)["digest"]
    assert json.loads(verified.stdout)["public_key"] == str(public)


def test_the_command_says_what_was_not_checked(signed, keys):
    assert "by whom was not checked" in CliRunner().invoke(cli, ["verify", str(signed)]).stdout
    result = CliRunner().invoke(cli, ["verify", str(signed), "--public-key", str(keys / "ours.pub")])
    assert f"The signature holds for {keys / 'ours.pub'}" in result.stdout


def test_the_command_refuses_the_wrong_key_with_exit_code_1(signed, keys):
    result = CliRunner().invoke(cli, ["verify", str(signed), "--public-key", str(keys / "theirs.pub")])
    assert result.exit_code == 1
    assert "model.sig does not hold" in result.stderr


def test_without_the_extra_the_message_names_it(bundle, signed, keys, monkeypatch):
    for module in ("model_signing", "in_toto_attestation"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"enginery\[sign\]"):
        sign_bundle(bundle, keys / "ours.pem")
    with pytest.raises(MissingDependencyError, match=r"enginery\[sign\]"):
        verify_bundle(signed, public_key=keys / "ours.pub")


def test_digests_are_verified_without_the_extra(signed, monkeypatch):
    for module in ("model_signing", "in_toto_attestation", "securesystemslib", "cryptography"):
        monkeypatch.setitem(sys.modules, module, None)
    assert verify_bundle(signed).signed


def test_our_statement_is_the_one_that_the_openssf_tool_makes(bundle, keys, tmp_path):
    """We hand it digests; given the folder, it must find the same to sign."""
    sign_bundle(bundle, keys / "ours.pem")
    command = [*TOOL, "sign", "key", bundle, "--signature", tmp_path / "theirs.sig", "--private_key", keys / "ours.pem"]
    ignored = ["--ignore-paths", bundle / SUMS, "--ignore-paths", bundle / "model.sig"]
    subprocess.run([*command, *ignored], check=True, capture_output=True)
    ours, theirs = statement_of(bundle / "model.sig"), statement_of(tmp_path / "theirs.sig")
    for part in ("_type", "predicateType", "subject"):
        assert ours[part] == theirs[part]
    assert ours["predicate"]["resources"] == theirs["predicate"]["resources"]
    known = set(ours["predicate"]["serialization"].pop("ignore_paths"))
    assert known <= set(theirs["predicate"]["serialization"].pop("ignore_paths"))
    assert ours["predicate"]["serialization"] == theirs["predicate"]["serialization"]


def statement_of(path):
    return json.loads(base64.b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"]))
