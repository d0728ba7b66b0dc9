from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import racing
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_recipes import Recorder

from enginery.errors import IntegrityError, StageError
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.files import files_below
from enginery.pipeline.store import Result, Store, describe_change
from enginery.pipeline.store.keys import Key

STAGE = StageName("export", "here")
KEY = Key("export", {"config.opset": "20", "input.source": "a", "code.enginery.x": "1", "tool.torch": "2.13.0"})


def _write(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "one.txt").write_text("one")
    (folder / "sub" / "two.bin").write_bytes(bytes(range(256)) * 64)


def _never(_: Path) -> None:
    pytest.fail("the stage ran")


def _obtain(store: Store, run: Callable[[Path], None], key: Key = KEY, events: Events | None = None) -> Result:
    return store.obtain(STAGE, key, "line", run, events or Events())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_result_is_built_once_and_then_reused(store: Store) -> None:
    events = Recorder()
    first = _obtain(store, _write, events=events)
    second = _obtain(store, _never, events=events)
    assert events.ran == {"export (here)": "first build"}
    assert events.kept == ["export (here)"]
    assert not first.reused
    assert second.reused
    assert first.digest == second.digest
    assert second.path("one.txt").read_text() == "one"


def test_equal_files_have_equal_digests_whatever_the_key(store: Store) -> None:
    other = Key("export", {**KEY.parts, "config.opset": "21"})
    assert _obtain(store, _write).digest == _obtain(store, _write, other).digest


def test_a_digest_covers_a_folder_alone(store: Store, tmp_path: Path) -> None:
    def more(folder: Path) -> None:
        _write(folder)
        (folder / "one.txt").write_text("other")

    first, second = _obtain(store, _write), _obtain(Store(tmp_path / "b"), more)
    assert first.digest != second.digest
    assert first.digest_of("sub") == second.digest_of("sub")


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("name", ["files/one.txt", "files/sub/two.bin", "result.json"])
def test_a_damaged_result_is_noticed_and_built_again(store: Store, name: str, *, keep_times: bool) -> None:
    entry = _obtain(store, _write).folder.parent
    path = entry / name
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    if keep_times:
        # Size and time are as they were: a lookup cannot know, whoever is about to read the files does.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        if name != "result.json":
            with pytest.raises(IntegrityError, match="changed since it was stored"):
                _obtain(store, _never).verify()
    events = Recorder()
    assert _obtain(store, _write, events=events).path("one.txt").read_text() == "one"
    assert "damaged" in events.ran["export (here)"]
    _obtain(store, _never).verify()


def test_files_that_are_gone_or_added_are_noticed(store: Store) -> None:
    folder = _obtain(store, _write).folder
    (folder / "one.txt").unlink()
    events = Recorder()
    _obtain(store, _write, events=events)
    assert "files differ: one.txt" in events.ran["export (here)"]
    (folder / "extra").write_text("x")
    events = Recorder()
    _obtain(store, _write, events=events)
    assert "files differ: extra" in events.ran["export (here)"]
    assert not (folder / "extra").exists()


def test_a_touched_file_is_hashed_and_kept(store: Store) -> None:
    path = _obtain(store, _write).path("one.txt")
    path.touch()
    _obtain(store, _never)


def test_a_result_of_another_key_under_this_keys_name_is_refused(store: Store) -> None:
    other = Key("export", {**KEY.parts, "config.opset": "21"})
    first, second = _obtain(store, _write), _obtain(store, _write, other)
    document = second.folder.parent / "result.json"
    document.write_bytes((first.folder.parent / "result.json").read_bytes())
    events = Recorder()
    _obtain(store, _write, other, events)
    assert "belongs to another key" in events.ran["export (here)"]


def test_why_names_the_part_that_changed(store: Store) -> None:
    _obtain(store, _write)
    for part, value, words in (
        ("config.opset", "21", "config opset 20 → 21"),
        ("input.source", "b", "input source changed"),
        ("code.enginery.x", "2", "code enginery.x changed"),
        ("tool.torch", "2.13.1", "tool torch 2.13.0 → 2.13.1"),
    ):
        events = Recorder()
        _obtain(store, _write, Key("export", {**KEY.parts, part: value}), events)
        assert words in events.ran["export (here)"]
        _obtain(store, _write)


def test_why_counts_what_it_does_not_name() -> None:
    before = {f"input.{n}": "a" for n in range(9)}
    assert describe_change(before, dict.fromkeys(before, "b")).endswith("; and 5 more")
    assert describe_change(before, before) == "the stored result is gone"
    assert describe_change({}, {"config.x": "1"}) == "config x is new"


def test_a_stage_that_fails_leaves_nothing(store: Store) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise StageError("export: no")

    with pytest.raises(StageError):
        _obtain(store, fails)
    assert not [p for p in files_below(store.root) if "half" in p.name]
    _obtain(store, _write)


def test_a_full_disk_is_a_clear_word_and_the_next_build_resumes(store: Store) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StageError, match=r"export \(here\): cannot write to the store .*No space left.*ENGINERY_STORE"):
        _obtain(store, full)
    _obtain(store, _write)


def test_a_missing_file_of_the_user_is_not_blamed_on_the_store(store: Store, tmp_path: Path) -> None:
    def reads(_: Path) -> None:
        (tmp_path / "weights").read_bytes()

    with pytest.raises(FileNotFoundError):
        _obtain(store, reads)


def test_timings_are_kept_apart_from_the_digest(store: Store) -> None:
    def timed(folder: Path) -> None:
        _write(folder)
        (folder / "measured.json").write_text('{"seconds": 1.5}')

    result = _obtain(store, timed)
    assert result.measured == {"seconds": 1.5}
    assert _obtain(store, _never).measured == {"seconds": 1.5}
    assert "measured.json" not in result.files


def test_links_are_no_results(store: Store) -> None:
    with pytest.raises(StageError, match="symbolic link"):
        _obtain(store, lambda folder: (folder / "link").symlink_to("/etc/hostname"))


def test_what_a_living_process_is_making_is_left_alone(store: Store) -> None:
    making = store.root / "work" / "another-key.alive"
    making.mkdir(parents=True)
    with store.lock("another-key", lambda: None):
        _obtain(store, _write)
    assert making.exists()


@pytest.mark.parametrize("key", [KEY.digest, "another-key"])
def test_what_a_dead_process_left_is_swept_away(store: Store, key: str) -> None:
    left = store.root / "work" / f"{key}.dead"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    _obtain(store, _write)
    assert not left.exists()


def test_two_builds_at_once_build_once(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = time.time() + 2
    workers = [context.Process(target=racing.obtain, args=(store.root, tmp_path / "log", start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "ran\n"


def test_the_store_stands_beside_the_output_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINERY_STORE", raising=False)
    assert Store.beside(tmp_path).root == tmp_path / ".store"
    monkeypatch.setenv("ENGINERY_STORE", str(tmp_path / "elsewhere"))
    assert Store.beside(tmp_path).root == tmp_path / "elsewhere"


FILES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=64), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(FILES, st.data())
def test_any_flipped_byte_of_an_entry_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], draw: st.DataObject
) -> None:
    def run(folder: Path) -> None:
        for name, raw in content.items():
            (folder / name).write_bytes(raw)

    store = Store(tmp_path_factory.mktemp("store"))
    result = _obtain(store, run)
    candidates = [path for path in files_below(result.folder) if path.stat().st_size] + [
        result.folder.parent / "result.json"
    ]
    path = draw.draw(st.sampled_from(candidates))
    raw = bytearray(path.read_bytes())
    raw[draw.draw(st.integers(0, len(raw) - 1))] ^= draw.draw(st.integers(1, 255))
    path.write_bytes(raw)
    (result.folder.parent / "stamps.json").unlink()
    again = _obtain(store, run)
    assert {name: again.path(name).read_bytes() for name in again.files} == content
    sealed = json.loads((again.folder.parent / "result.json").read_bytes())
    assert set(sealed["files"]) == set(content)
