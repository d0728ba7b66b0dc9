import pytest

from enginery.engines.tensorrt import trust
from enginery.errors import UntrustedSourceError


def test_only_an_accepted_plan_may_be_loaded(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"a plan")
    with pytest.raises(UntrustedSourceError, match="was not built by this user"):
        trust.require(plan)
    trust.accept(plan)
    trust.require(plan)


def test_a_changed_plan_is_another_plan(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"a plan")
    trust.accept(plan)
    plan.write_bytes(b"a pLan")
    with pytest.raises(UntrustedSourceError, match="contains code"):
        trust.require(plan)


def test_a_plan_may_be_moved(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"a plan")
    trust.accept(plan)
    trust.require(plan.rename(tmp_path / "other"))


def test_records_are_private_to_the_user(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"a plan")
    record = trust.records() / trust.accept(plan)
    assert record.stat().st_mode & 0o077 == 0
    assert record.parent.stat().st_mode & 0o077 == 0


def test_without_the_variable_records_lie_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trust.records() == tmp_path / ".local" / "state" / "enginery" / "plans"
