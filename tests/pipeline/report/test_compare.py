import json

import pytest
from click.testing import CliRunner
from reports import make_report

from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.cli.main import cli
from enginery.pipeline.report import write_report
from enginery.pipeline.report.compare import compare_reports, render_comparison_html, render_comparison_text


def faster():
    """The tiny report after a change for the better in speed and for the worse in accuracy."""
    full = make_report()
    engine = full.latencies[0].model_copy(update={"median_ms": 0.8})
    errors = full.evaluation[0].model_copy(update={"cosine_mean": 0.99, "relative": 0.25})
    return full.model_copy(
        update={
            "latencies": (engine, *full.latencies[1:]),
            "evaluation": (errors,),
            "sizes": {"original": 1000, "engine": 130, "graph": 140},
            "tools": {"onnx": "1.24.0"},
            "gates": (*full.gates[:-1], GateVerdict(gate="metric", verdict=Verdict.PASSED, words="top1")),
            "passes": (full.passes[0].model_copy(update={"changed": 5}),),
        }
    )


@pytest.fixture(scope="module")
def changes():
    return {(change.section, change.what): change for change in compare_reports(make_report(), faster())}


def test_a_report_and_itself_are_the_same():
    assert not any(change.changed for change in compare_reports(make_report(), make_report()))


def test_speed(changes):
    change = changes["speed", "engine at opt (batch=4): median ms"]
    assert (change.before, change.after, change.better) == (1.0, 0.8, "better")
    assert change.difference == "x0.8"


def test_accuracy_in_both_directions(changes):
    assert changes["accuracy", "y on evaluation data: mean cosine"].better == "worse"
    assert changes["accuracy", "y on evaluation data: relative error"].better == "worse"
    assert changes["accuracy", "y on evaluation data: SNR (dB)"].better == ""
    assert changes["accuracy", "y on evaluation data: mean cosine"].difference == "-0.008"
    assert changes["changes by pass", "optimize: fold-constants"].difference == "+2"


def test_size_and_what_is_new(changes):
    assert changes["size", "engine"].better == "better"
    assert changes["size", "graph"].difference == "new"


def test_versions_gates_and_passes(changes):
    assert changes["versions", "onnx"].texts == ("1.23.2", "1.24.0")
    assert changes["gates", "metric"].texts == ("skipped", "passed")
    assert changes["changes by pass", "optimize: fold-constants"].texts == ("3", "5")


def test_what_is_gone():
    changes = compare_reports(make_report(), make_report(tools={}))
    assert next(change for change in changes if change.what == "onnx").difference == "gone"


def test_the_text_lists_what_changed_and_names_what_did_not():
    text = render_comparison_text(compare_reports(make_report(), faster()))
    assert "| y on evaluation data: mean cosine | 0.998 | 0.99 | -0.008 worse |" in text
    assert "bundle: the same" in text
    assert "SNR" not in text


def test_the_page_has_every_section():
    page = render_comparison_html(compare_reports(make_report(), faster()), "a <b>", "c")
    assert "a &lt;b&gt;" in page
    assert "<h2>Accuracy</h2>" in page
    assert "The same." in page


@pytest.fixture
def folders(tmp_path):
    for name, report in (("a", make_report()), ("b", faster())):
        (tmp_path / name).mkdir()
        write_report(report, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_the_command_shows_one_report(folders):
    result = CliRunner().invoke(cli, ["report", str(folders[0])])
    assert result.exit_code == 0
    assert result.stdout == (folders[0] / "report.md").read_text()


def test_the_command_prints_the_document_as_json(folders):
    result = CliRunner().invoke(cli, ["report", str(folders[0]), "--json"])
    assert json.loads(result.stdout) == json.loads((folders[0] / "report.json").read_text())


def test_the_command_compares_two(folders, tmp_path):
    result = CliRunner().invoke(cli, ["report", *map(str, folders), "--json", "-o", str(tmp_path / "diff.html")])
    assert result.exit_code == 0
    found = {(entry["section"], entry["what"]): entry for entry in json.loads(result.stdout)}
    assert found["size", "engine"]["ratio"] == 0.5
    assert "What changed" in (tmp_path / "diff.html").read_text()


def test_the_command_opens_a_browser(folders, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert CliRunner().invoke(cli, ["report", str(folders[0]), "--open"]).exit_code == 0
    assert opened[0].startswith("file:///")


def test_no_report_is_wrong_usage(tmp_path):
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no report.json" in result.stderr
