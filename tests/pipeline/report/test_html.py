"""report.html: self-contained, escaped, every figure of the document, and clean in a real browser."""

import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from reports import make_report

from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.cli.main import cli
from enginery.pipeline.report import PassEffect, Report, charts, read_report, write_report
from enginery.pipeline.report.charts import Bar
from enginery.pipeline.report.compare import compare_reports, render_comparison_html
from enginery.pipeline.report.html import bytes_text, render_html
from enginery.pipeline.report.markdown import render_markdown

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>\" onload='x' & ]]>"


class Page(HTMLParser):
    """What a page refers to and what it would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}]

    def handle_data(self, data):
        self.text += data


def hostile_report():
    """A report whose every name comes from a model that means harm."""
    full = make_report()
    refusals = ({"node": HOSTILE, "reason": HOSTILE},)
    return full.model_copy(
        update={
            "name": HOSTILE,
            "description": HOSTILE,
            "notes": (HOSTILE,),
            "gates": (GateVerdict(gate=HOSTILE, verdict=Verdict.PASSED, words=HOSTILE),),
            "evaluation": tuple(errors.model_copy(update={"name": HOSTILE}) for errors in full.evaluation),
            "latencies": tuple(item.model_copy(update={"case": HOSTILE}) for item in full.latencies),
            "sizes": {HOSTILE: 1},
            "depth": tuple(
                point.model_copy(update={"node": HOSTILE, "tensor": HOSTILE, "drawing": HOSTILE})
                for point in full.depth
            ),
            "remedies": tuple(step.model_copy(update={"spec": HOSTILE, "reason": HOSTILE}) for step in full.remedies),
            "passes": (PassEffect(stage="s", spec=HOSTILE, changed=0, refusals=refusals),),
            "original": {HOSTILE: HOSTILE},
        }
    )


def test_the_page_refers_to_nothing_and_runs_nothing():
    page = Page(render_html(make_report()))
    assert page.references == ["data:,"]
    assert "script" not in page.tags
    assert not {"style", "onload", "onclick"} & page.attributes


def test_the_policy_allows_the_one_style_and_nothing_else():
    text = render_html(make_report())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy[1]


def test_names_are_escaped_everywhere():
    text = render_html(hostile_report())
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    assert "onload" not in page.attributes
    assert page.text.count(HOSTILE) >= 8


def test_the_figures_are_valid_xml():
    for figure in re.findall(r"<svg.*?</svg>", render_html(hostile_report()), re.DOTALL):
        ET.fromstring(figure)


def test_verdicts_come_first():
    text = render_html(make_report())
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[0] == "Gates"
    assert text.index("Shipped: every gate that applies passed.") < text.index("<h2>Gates</h2>")


def test_every_figure_of_the_document_is_there():
    text = Page(render_html(make_report())).text
    for words in (
        "2.10x", "26%", "0.99800", "0.975", "4 of 5", "cosine 0.998", "2 nodes stay in float", "98.44%", "24.5",
        "0.98 by the original", "interval 2.00 to 2.20", "lowest: conv2, 30.5 dB", "12 → 9", "not folded: too large",
        "1.00 s, reused", "1" * 64, "2" * 64, "1.23.2", "CPUExecutionProvider", "float32[batch, 6]",
        "1 to 8, tuned for 4",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("verdict", "kind"), [("passed", "good"), ("allowed", "warn"), ("deferred", "warn"), ("refused", "bad")]
)
def test_the_headline_has_the_colour_of_the_worst_verdict(verdict, kind):
    gates = (GateVerdict(gate="a", verdict=Verdict.PASSED, words=""), GateVerdict(gate="b", verdict=verdict, words=""))
    assert f'class="headline {kind}"' in render_html(make_report(gates=gates, shipped=verdict != "refused"))


def test_a_refused_build_with_nothing_measured_has_a_page():
    bare = Report(
        name="m", target="onnxruntime-cpu", precision="fp32", enginery="1", shipped=False,
        gates=(GateVerdict(gate="outputs", verdict=Verdict.REFUSED, words="no output"),),
    )  # fmt: skip
    text = render_html(bare)
    assert "Refused by outputs" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Gates", "Provenance"]


def test_passes_that_did_nothing_are_named_in_one_line():
    busy = make_report().passes[0]
    idle = PassEffect(stage="optimize", spec="merge-clips", changed=0, nodes_before=4, nodes_after=4)
    page = Page(render_html(make_report(passes=(busy, idle, idle)))).text
    assert "Found nothing to do: merge-clips." in page
    assert page.count("merge-clips") == 1


def test_headings_of_tables_are_repeated_on_every_printed_page():
    text = render_html(make_report())
    assert text.count("<thead>") == text.count("<table>") >= 3


def test_the_share_of_the_work_in_integers_is_shown():
    report = make_report(coverage=0.889)
    assert "89% of the multiply-accumulates" in Page(render_html(report)).text
    assert "89% of the multiply-accumulates" in render_markdown(report)


def test_a_latency_of_seconds_is_written_out():
    slow = make_report().latencies[0].model_copy(update={"median_ms": 1834.2, "case": "opt (batch=8, seq=128)"})
    text = Page(render_html(make_report(latencies=(slow,)))).text
    assert "1,834 ms" in text
    assert "engine, opt" in text


def test_a_float_report_shows_the_bound():
    gates = (GateVerdict(gate="accuracy-float", verdict=Verdict.PASSED, words="", figure=1e-6, bound=1e-4),)
    assert "allowed 0.0001" in Page(render_html(make_report(precision="fp32", gates=gates))).text


def test_the_size_stays_small_for_a_large_model():
    point = make_report().depth[0]
    effect = make_report().passes[0]
    large = make_report(
        depth=tuple(point.model_copy(update={"node": f"layer.{i}"}) for i in range(1000)),
        passes=tuple(effect for _ in range(500)),
    )
    assert len(render_html(large).encode()) < 1_000_000


def test_it_is_written_beside_the_others_with_the_same_figures(tmp_path):
    names = write_report(make_report(), tmp_path)
    assert names == ("report.html", "report.json", "report.md")
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert (tmp_path / "report.html").read_text() == render_html(read_report(tmp_path))


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (86_621, "86.6 kB"), (91_300_000, "91.3 MB")]
)
def test_bytes_are_readable(size, text):
    assert bytes_text(size) == text


@pytest.fixture
def served(tmp_path):
    """(folder, its address on the loopback, what was asked of it)."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["report", "hostile", "comparison"])
def test_a_real_browser_has_nothing_to_say_and_asks_for_nothing_more(served, kind, dark):
    folder, address, asked = served
    pages = {
        "report": lambda: render_html(make_report()),
        "hostile": lambda: render_html(hostile_report()),
        "comparison": lambda: render_comparison_html(compare_reports(make_report(), hostile_report()), "a", "b"),
    }
    (folder / "page.html").write_text(pages[kind]())
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1000,3000"]
    # A page that asked another host would fail to find it, and say so on the console.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += [f"--screenshot={folder / 'shot.png'}", f"{address}/page.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert (folder / "shot.png").stat().st_size > 10_000
    assert asked == ["/page.html"]


@pytest.mark.parametrize("absent", ["jinja2", "markupsafe"])
def test_a_page_without_its_packages_names_what_to_install(pristine_report, tmp_path, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    result = CliRunner().invoke(cli, ["report", str(pristine_report), "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert "enginery[" in result.stderr
    assert CliRunner().invoke(cli, ["report", str(pristine_report)]).exit_code == 0


@pytest.fixture
def pristine_report(tmp_path):
    (tmp_path / "refused").mkdir()
    write_report(make_report(), tmp_path / "refused")
    return tmp_path / "refused"


def test_a_spread_far_beyond_the_values_does_not_hide_them():
    text = charts.bars("t", [Bar("a", 1.0, "1 ms", low=0.9, high=300.0), Bar("b", 2.0, "2 ms", low=1.9, high=2.1)])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([0-9.]+)"', text)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert widths[0] > 90
