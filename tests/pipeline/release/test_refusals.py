"""What `verify` refuses, each by name: of a signed bundle with its key, and of an unsigned one by its digests."""

import base64
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from bundles import make_bundle
from tiny_recipes import run_build, write_recipe

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle import SUMS, verify_bundle, write_sums
from enginery.pipeline.bundle.manifest import SCHEMA_VERSION
from enginery.pipeline.files import files_below
from enginery.pipeline.release.sign import sign_bundle
from enginery.pipeline.revalidation import revalidate

FLIPS_PER_FILE = 5


def names_in(folder):
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def flip(path, generator):
    """Change one byte at a random place to another random value; return what undoes it."""
    content = bytearray(path.read_bytes())
    place = generator.randrange(len(content))
    before = bytes(content)
    content[place] ^= generator.randrange(1, 256)
    path.write_bytes(content)
    return before


@pytest.fixture(params=["unsigned", "signed"])
def case(request, tmp_path, keys):
    """(bundle, public key or None): every refusal holds with and without a signature."""
    origin = request.getfixturevalue("pristine" if request.param == "unsigned" else "pristine_signed")
    copy = shutil.copytree(origin, tmp_path / "copy")
    return copy, None if request.param == "unsigned" else keys / "ours.pub"


def refused(case, match):
    with pytest.raises(IntegrityError, match=match):
        verify_bundle(case[0], public_key=case[1])


def test_an_untouched_bundle_verifies(case):
    verified = verify_bundle(case[0], public_key=case[1])
    assert verified.files == len(names_in(case[0]))
    assert verified.public_key == case[1]


def test_every_file_with_one_changed_byte(case):
    bundle, key = case
    generator = random.Random(7)
    for name in names_in(bundle):
        for _ in range(FLIPS_PER_FILE):
            before = flip(bundle / name, generator)
            with pytest.raises(IntegrityError):
                verify_bundle(bundle, public_key=key)
            (bundle / name).write_bytes(before)
    verify_bundle(bundle, public_key=key)


def test_every_file_of_a_signed_bundle_with_one_changed_byte_and_no_key(signed):
    generator = random.Random(8)
    for name in names_in(signed):
        before = flip(signed / name, generator)
        with pytest.raises(IntegrityError):
            verify_bundle(signed)
        (signed / name).write_bytes(before)


def test_an_added_file(case):
    (case[0] / "golden" / "extra.npz").write_bytes(b"x")
    refused(case, "golden/extra.npz is not part of the bundle")


def test_an_added_hidden_file(case):
    (case[0] / ".gitignore").write_bytes(b"x")
    refused(case, r"\.gitignore is not part of the bundle")


def test_an_added_file_that_git_would_ignore(case):
    (case[0] / ".git").mkdir()
    (case[0] / ".git" / "config").write_bytes(b"x")
    refused(case, r"\.git/config is not part of the bundle")


def test_a_removed_file(case):
    (case[0] / "golden" / "opt.inputs.npz").unlink()
    refused(case, "golden/opt.inputs.npz is missing")


def test_a_renamed_file(case):
    (case[0] / "golden" / "opt.inputs.npz").rename(case[0] / "golden" / "OPT.inputs.npz")
    refused(case, "golden/opt.inputs.npz is missing; golden/OPT.inputs.npz is not part of the bundle")


def test_two_files_exchanged(case):
    first, second = case[0] / "golden" / "min.inputs.npz", case[0] / "golden" / "max.inputs.npz"
    first.rename(case[0] / "between")
    second.rename(first)
    (case[0] / "between").rename(second)
    refused(case, r"golden/m(in|ax)\.inputs\.npz")


def test_a_file_of_another_bundle(case, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    shutil.copyfile(other / "model.onnx", case[0] / "model.onnx")
    refused(case, "model.onnx")


def test_a_symbolic_link(case, tmp_path):
    target = tmp_path / "model.onnx"
    (case[0] / "model.onnx").rename(target)
    (case[0] / "model.onnx").symlink_to(target)
    refused(case, "model.onnx is a symbolic link")


def test_a_linked_folder(case, tmp_path):
    (case[0] / "golden").rename(tmp_path / "golden")
    (case[0] / "golden").symlink_to(tmp_path / "golden")
    refused(case, "golden is a symbolic link")


def test_a_hard_link(case, tmp_path):
    os.link(case[0] / "model.onnx", tmp_path / "alias")
    refused(case, "model.onnx is a hard link")


def test_a_pipe(case):
    (case[0] / "report.md").unlink()
    os.mkfifo(case[0] / "report.md")
    refused(case, "report.md is no plain file")


def test_an_empty_file(case):
    (case[0] / SUMS).write_bytes(b"")
    refused(case, SUMS)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text + text.splitlines(keepends=True)[0], "once per file"),
        (lambda text: text + f"{'0' * 64}  ../outside\n", "once per file"),
        (lambda text: text + f"{'0' * 64}  /etc/hostname\n", "once per file"),
        (lambda text: text + f"{'0' * 64}  golden//x\n", "once per file"),
        (lambda text: text + f"{'0' * 63}  x\n", "once per file"),
        (lambda text: text.rstrip("\n"), "does not end with a line break"),
        (lambda text: text + "x" * (1 << 22), "is larger than"),
        (lambda text: "".join(line for line in text.splitlines(keepends=True) if "manifest" not in line), "not list"),
    ],
    ids=["twice", "above", "absolute", "empty part", "short digest", "cut", "huge", "no manifest"],
)
def test_digests_that_are_not_strictly_written(bundle, spoil, words):
    text = (bundle / SUMS).read_text()
    (bundle / SUMS).write_text(spoil(text))
    refused((bundle, None), words)


def test_measurements_that_no_digest_covers(bundle):
    rewrite(bundle, measurements=["report.json", "report.md", "absent.json"])
    refused((bundle, None), "does not list absent.json")


def test_a_bundle_from_a_future_schema(bundle, keys):
    rewrite(bundle, schema_version=SCHEMA_VERSION + 1)
    refused((bundle, None), f"schema version {SCHEMA_VERSION + 1}; this Enginery reads up to {SCHEMA_VERSION}")
    with pytest.raises(IntegrityError, match="schema version"):
        sign_bundle(bundle, keys / "ours.pem")


def test_a_manifest_edited_and_digested_again_passes_by_digests_alone(signed):
    """Digests show damage. Only the signature shows intent: this is what it is for."""
    rewrite(signed, validated=False)
    assert verify_bundle(signed).manifest.validated is False


def test_a_manifest_edited_and_digested_again_but_not_signed_again(signed, keys):
    rewrite(signed, validated=False)
    refused((signed, keys / "ours.pub"), "manifest.json")


def test_a_manifest_edited_and_signed_with_another_key(signed, keys):
    rewrite(signed, validated=False)
    sign_bundle(signed, keys / "theirs.pem")
    refused((signed, keys / "ours.pub"), "model.sig does not hold")


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["engine"].update(folder="../another/engine"),
        lambda document: document["engine"].update(entry="/etc/hostname"),
        lambda document: document.update(graph="golden/../../model.onnx"),
        lambda document: document["golden"][0].update(inputs="../inputs.npz"),
        lambda document: document["golden"][1].update(outputs="report.json"),
        lambda document: document.update(preprocess={"kind": "text", "options": {}, "file": "../tokenizer.json"}),
    ],
)
def test_a_manifest_that_uses_what_it_does_not_vouch_for(signed, keys, change):
    """Every digest holds; what would be loaded stands outside the bundle, or among what no build reproduces."""
    document = json.loads((signed / "manifest.json").read_bytes())
    change(document)
    rewrite(signed, **document)
    refused((signed, None), "which is no file that it vouches for")
    (signed / "model.sig").unlink()
    write_sums(signed)
    with pytest.raises(IntegrityError, match="which is no file that it vouches for"):
        sign_bundle(signed, keys / "ours.pem")


@pytest.mark.parametrize("wrong", ["theirs", "large"])
def test_the_wrong_key(signed, keys, wrong):
    refused((signed, keys / f"{wrong}.pub"), "model.sig does not hold for .*another key signed them")


def test_no_signature_where_a_key_is_given(bundle, keys):
    refused((bundle, keys / "ours.pub"), "is not signed .*model.sig is missing")


def test_the_signature_of_another_bundle(signed, keys, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    sign_bundle(other, keys / "ours.pem")
    shutil.copyfile(other / "model.sig", signed / "model.sig")
    write_sums(signed)
    refused((signed, keys / "ours.pub"), "model.onnx")


def test_a_signature_that_leaves_files_out(bundle, keys):
    """The author's own tool can be told to ignore files; the engine would then be anybody's."""
    tool = [*_model_signing(), "sign", "key", bundle, "--private_key", keys / "ours.pem", "--signature"]
    ignored = ["--ignore-paths", bundle / "engine", "--ignore-paths", bundle / SUMS]
    subprocess.run([*tool, bundle / "model.sig", *ignored], check=True, capture_output=True)
    write_sums(bundle)
    refused((bundle, keys / "ours.pub"), "engine/model.onnx is not part of the bundle")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"null", b'{"dsseEnvelope": {"payload": "e30="}}', b"\xff\x00"]
)
def test_a_signature_file_of_nonsense(signed, keys, content):
    (signed / "model.sig").write_bytes(content)
    refused((signed, keys / "ours.pub"), "model.sig does not hold")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda resources: resources.append({**resources[0], "digest": "0" * 64}),
        lambda resources: resources[0].update(algorithm="blake2b"),
        lambda resources: resources[0].update(digest=resources[0]["digest"].upper()),
    ],
    ids=["a name twice", "another algorithm", "another spelling"],
)
def test_a_signature_that_two_readers_could_read_in_two_ways(signed, keys, spoil):
    content = json.loads((signed / "model.sig").read_bytes())
    payload = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    spoil(payload["predicate"]["resources"])
    content["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (signed / "model.sig").write_text(json.dumps(content))
    refused((signed, keys / "ours.pub"), "is not the sha256 of one file")


def test_a_signature_that_is_a_link(signed, keys, tmp_path):
    (signed / "model.sig").rename(tmp_path / "model.sig")
    (signed / "model.sig").symlink_to(tmp_path / "model.sig")
    refused((signed, keys / "ours.pub"), "model.sig is missing")


def test_a_signature_larger_than_any_can_be(signed, keys):
    with (signed / "model.sig").open("ab") as file:
        file.truncate(1 << 25)
    refused((signed, keys / "ours.pub"), "it is no signature")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_public_key_that_is_none(signed, tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="is not a public key"):
        verify_bundle(signed, public_key=tmp_path / "key")


def test_a_public_key_that_is_absent(signed, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.pub is not a public key: .*No such file"):
        verify_bundle(signed, public_key=tmp_path / "nowhere.pub")


def test_the_environment_demands_a_signature(bundle, signed, keys, monkeypatch):
    monkeypatch.setenv("ENGINERY_PUBLIC_KEY", str(keys / "ours.pub"))
    assert verify_bundle(signed).public_key == keys / "ours.pub"
    refused((bundle, None), "is not signed")


def test_the_recipe_demands_a_signature(tmp_path, keys):
    bundle = make_bundle(tmp_path / "demanding", recipe={"name": "tiny", "signature": "required"})
    refused((bundle, None), "its recipe demands a signature. Give the public key")
    refused((bundle, keys / "ours.pub"), "is not signed")
    sign_bundle(bundle, keys / "ours.pem")
    assert verify_bundle(bundle, public_key=keys / "ours.pub").signed


def test_a_bundle_whose_recipe_demands_a_signature_can_be_validated_before_it_is_signed(tmp_path):
    recipe = write_recipe(tmp_path / "recipe", signature="required")
    bundle = run_build(recipe, tmp_path / "build").bundle
    refused((bundle, None), "its recipe demands a signature")
    assert {gate.verdict for gate in revalidate(bundle).gates} <= {"passed", "skipped"}


def rewrite(bundle, **changes):
    """Edit the manifest and make all digests agree with it again."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}, sort_keys=True, indent=2))
    write_sums(bundle)


def _model_signing():
    return [sys.executable, "-P", "-m", "model_signing"]
