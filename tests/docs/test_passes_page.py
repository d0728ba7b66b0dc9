from enginery.passes.graph import graph_passes


def test_every_graph_pass_is_on_the_page(repository):
    page = (repository / "docs" / "passes.md").read_text()
    missing = [name for name in graph_passes() if f"`{name}" not in page]
    assert not missing
