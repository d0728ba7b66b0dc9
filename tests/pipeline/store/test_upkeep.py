"""ls, gc and verify of a store that real `Store.obtain` calls filled."""

import json
import os
import time

import pytest
from click.testing import CliRunner

from enginery.errors import UsageError
from enginery.pipeline.cli.main import cli
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.store import Store
from enginery.pipeline.store.keys import Key
from enginery.pipeline.store.upkeep import DAY, collect, entries, verify

STAGE = StageName("export")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / ".store")


def obtain(store, version, *, line="tiny", stage=STAGE):
    key = Key(stage.stage, {"config.version": version})
    run = lambda folder: (folder / "model.onnx").write_text(version)  # noqa: E731
    return store.obtain(stage, key, line, run, Events())


def age(store, result, days):
    then = time.time() - days * DAY
    os.utime(store.root / "results" / result.key.digest, (then, then))


def test_every_result_is_listed_with_its_stage_size_and_age(store):
    old, new = obtain(store, "1"), obtain(store, "2")
    age(store, old, 3)
    found = entries(store)
    assert [entry.key for entry in found] == [old.key.digest, new.key.digest]
    assert found[0].stage == "export"
    assert found[0].bytes > 1
    assert 2.9 < found[0].age / DAY < 3.1


def test_what_the_last_build_used_is_current(store):
    obtain(store, "1")
    last = obtain(store, "2")
    assert {entry.key for entry in entries(store) if entry.current} == {last.key.digest}


def test_a_stage_with_a_label_is_current_too(store):
    result = obtain(store, "1", stage=StageName("compile", "onnxruntime-cpu int8"))
    assert [entry.current for entry in entries(store) if entry.key == result.key.digest] == [True]


def test_gc_removes_what_is_old_and_not_current(store):
    old, current = obtain(store, "1"), obtain(store, "2")
    for result in (old, current):
        age(store, result, 20)
    assert [entry.key for entry in collect(store, 14)] == [old.key.digest]
    assert [entry.key for entry in entries(store)] == [current.key.digest]


def test_gc_keeps_what_is_young(store):
    obtain(store, "1")
    obtain(store, "2")
    assert collect(store, 14) == ()
    assert len(collect(store, 0)) == 1


def test_gc_keeps_what_another_recipe_uses(store):
    obtain(store, "1", line="a")
    obtain(store, "2", line="b")
    assert collect(store, 0) == ()


def test_gc_keeps_what_a_build_begins_to_use_meanwhile(store, monkeypatch):
    """The build takes and leaves the entry's lock after gc made its list, and before gc takes the lock."""
    wanted = obtain(store, "1")
    obtain(store, "2")
    lock = store.lock

    def late(name, on_wait):
        if name == wanted.key.digest:
            monkeypatch.setattr(store, "lock", lock)
            assert obtain(store, "1").reused
        return lock(name, on_wait)

    monkeypatch.setattr(store, "lock", late)
    assert collect(store, 0) == ()
    assert wanted.path("model.onnx").is_file()


def test_gc_leaves_alone_what_a_build_holds(store):
    held = obtain(store, "1")
    obtain(store, "2")
    with store.lock(held.key.digest, lambda: None):
        assert collect(store, 0) == ()
    assert [entry.key for entry in collect(store, 0)] == [held.key.digest]


def test_gc_sweeps_what_a_killed_build_left(store):
    obtain(store, "1")
    making, replacing = store.root / "work" / "0123.abc", store.root / "results" / ".0123.old.abc"
    for left in (making, replacing):
        left.mkdir()
        (left / "half").touch()
    with store.lock("0123", lambda: None):
        collect(store, 14)
    assert making.exists()
    assert replacing.exists()
    collect(store, 14)
    assert not making.exists()
    assert not replacing.exists()


def test_a_collected_result_is_built_again(store):
    obtain(store, "1")
    obtain(store, "2")
    collect(store, 0)
    assert not obtain(store, "1").reused


def test_verify_finds_nothing_in_a_whole_store(store):
    result = obtain(store, "1")
    assert dict(verify(store)) == {result.key.digest: None}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "files/model.onnx").write_text("2"), "model.onnx was changed"),
        (lambda folder: (folder / "files/model.onnx").unlink(), "files differ: model.onnx"),
        (lambda folder: (folder / "files/extra").touch(), "files differ: extra"),
        (lambda folder: (folder / "result.json").write_text("{}"), "result.json cannot be read"),
        (
            lambda folder: (folder / "result.json").write_text(
                (folder / "result.json").read_text().replace("export", "import")
            ),
            "result.json was changed",
        ),
    ],
)
def test_verify_reads_every_byte(store, damage, words):
    folder = store.root / "results" / obtain(store, "1").key.digest
    damage(folder)
    (fault,) = dict(verify(store)).values()
    assert words in fault


def test_verify_sees_a_change_that_kept_size_and_time(store):
    """A build trusts size and time between its own reads; upkeep does not."""
    path = store.root / "results" / obtain(store, "1").key.digest / "files/model.onnx"
    stamp = path.stat()
    path.write_text("9")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (fault,) = dict(verify(store)).values()
    assert "was changed" in fault


def test_no_store_is_wrong_usage(store):
    for action in (entries, lambda store: dict(verify(store)), lambda store: collect(store, 0)):
        with pytest.raises(UsageError, match="no store"):
            action(store)


def test_the_commands(store, tmp_path, monkeypatch):
    monkeypatch.delenv("ENGINERY_STORE", raising=False)
    first = obtain(store, "1")
    obtain(store, "2")

    def run(*arguments):
        return CliRunner().invoke(cli, ["store", *arguments, "--output", str(tmp_path), "--json"])

    assert len(json.loads(run("ls").stdout)) == 2
    assert json.loads(run("verify").stdout) == {"results": 2, "damaged": {}}
    (store.root / "results" / first.key.digest / "files/model.onnx").write_text("2")
    assert run("verify").exit_code == 1
    assert [entry["key"] for entry in json.loads(run("gc", "--keep", "0").stdout)] == [first.key.digest]
    assert run("verify").exit_code == 0
    text = CliRunner().invoke(cli, ["store", "ls", "--output", str(tmp_path)]).stdout
    assert text.startswith("* ")
    assert "results: 1, " in text
