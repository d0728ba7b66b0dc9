"""The examples of docs/pipelines.md: they are YAML of the right form, and every command in them runs."""

import re
import subprocess

import pytest
import yaml
from documents import ROOT, blocks, environment, lend_environment

PAGE = ROOT / "docs" / "pipelines.md"
EXAMPLES = {block.text.split("\n", 1)[0].removeprefix("# "): yaml.safe_load(block.text) for block in blocks(PAGE)}
GITHUB, GITLAB = ".github/workflows/release.yml", ".gitlab-ci.yml"


def github_steps():
    return EXAMPLES[GITHUB]["jobs"]["bundle"]["steps"]


def commands(name):
    if name == GITHUB:
        return [step["run"] for step in github_steps() if "run" in step]
    return EXAMPLES[name]["bundle"]["script"]


def test_there_is_an_example_for_each_of_the_two():
    assert set(EXAMPLES) == {GITHUB, GITLAB}


def test_the_github_workflow_has_the_form_that_github_asks_for():
    workflow = EXAMPLES[GITHUB]
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True]["push"]["tags"]
    assert workflow["jobs"]["bundle"]["runs-on"]
    for step in github_steps():
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "actions/checkout@v5")), step


def test_the_gitlab_job_has_the_form_that_gitlab_asks_for():
    job = EXAMPLES[GITLAB]["bundle"]
    assert set(job) <= {"image", "rules", "cache", "script", "artifacts"}
    assert all(isinstance(line, str) for line in job["script"])


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_only_the_two_commands_are_used(name):
    used = {word for line in commands(name) for word in re.findall(r"\bmake ([\w-]+)", line)}
    assert used == {"engine", "release"}
    assert "enginery " not in "\n".join(commands(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_the_commands_of_an_example_deliver_a_signed_bundle(name, tmp_path):
    """On the small built-in recipe, whose build is seconds instead of minutes."""
    lend_environment(tmp_path)
    key = tmp_path / "secret.pem"
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True, capture_output=True
    )
    (tmp_path / "runner").mkdir()
    variables = {"KEY": key.read_text(), "RUNNER_TEMP": str(tmp_path / "runner"), "ENGINERY_KEY_FILE": str(key)}
    verify = re.search(r"^    (ENGINERY_PUBLIC_KEY=.*)$", PAGE.read_text(), re.MULTILINE)
    assert verify is not None
    public = f"openssl ec -in {key} -pubout -out release.pub"
    script = "\n".join([*commands(name), public, verify[1]]).replace("minilm", "digits")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "The signature holds for release.pub." in done.stdout
