import numpy as np
import projects
import pytest
from datasets import batches, opened

from enginery.errors import DataError, RecipeError

CODE = """
    import numpy as np

    def vectors(count=10, size=4):
        for start in range(0, count, size):
            rows = min(size, count - start)
            labels = np.arange(start, start + rows)
            yield {"x": labels.astype(np.float32)[:, None].repeat(3, 1)}, labels

    def listed():
        return list(vectors())

    class Stream:
        def __len__(self):
            raise TypeError("a stream has no length")

        def __iter__(self):
            return vectors()

    def once():
        return iterator

    iterator = iter([{"x": np.zeros((1, 3), np.float32)}])

    def wrong_item():
        yield [1, 2]

    def one_batch():
        return {"x": np.zeros((1, 3), np.float32)}

    def raises():
        yield {"x": np.zeros((1, 3), np.float32)}
        raise OSError("disk gone")
"""


@pytest.fixture
def project(tmp_path):
    return projects.write(tmp_path, data=CODE)


def test_batches_with_labels(project):
    got = batches(project, python="data.py:vectors")
    assert [len(batch.labels) for batch in got] == [4, 4, 2]
    assert got[2].inputs["x"][:, 0].tolist() == [8.0, 9.0]


def test_it_is_opened_anew_for_every_pass(project):
    data = opened(project, python="data.py:vectors")
    assert len(list(data.batches())) == len(list(data.batches())) == 3


def test_options_are_arguments(project):
    assert len(batches(project, python="data.py:vectors", options={"size": 1})) == 10


@pytest.mark.parametrize(("samples", "sizes"), [(6, [4, 2]), (4, [4]), (1, [1]), (99, [4, 4, 2])])
def test_the_first_samples_with_their_labels(project, samples, sizes):
    got = batches(project, python="data.py:vectors", samples=samples)
    assert [len(batch.inputs["x"]) for batch in got] == sizes
    assert [len(batch.labels) for batch in got] == sizes


@pytest.mark.parametrize(
    ("name", "samples", "count"),
    [("vectors", None, None), ("listed", None, 3), ("Stream", None, None), ("listed", 6, 2), ("listed", 99, 3)],
)
def test_how_many_batches_there_are_once_it_was_opened(project, name, samples, count):
    data = opened(project, python=f"data.py:{name}", samples=samples)
    assert data.count() is None
    next(data.batches())
    assert data.count() == count


def test_an_iterator_that_is_used_up_is_an_error(project):
    data = opened(project, python="data.py:once")
    list(data.batches())
    with pytest.raises(DataError, match=r"python data\.py:once gave no batch.*fresh iterator"):
        list(data.batches())


@pytest.mark.parametrize("name", ["wrong_item", "one_batch"])
def test_what_is_no_batch_is_told(project, name):
    with pytest.raises(DataError, match=r"\{input: array\} or \(\{input: array\}, labels\)"):
        batches(project, python=f"data.py:{name}")


def test_what_it_raises_is_told_with_its_line(project):
    with pytest.raises(
        DataError, match=r"reading a batch raised OSError: disk gone \(data\.py, line \d+: raise OSError"
    ):
        batches(project, python="data.py:raises")


def test_the_size_of_batches_is_the_callables_own(project):
    with pytest.raises(RecipeError, match="`batch` has no effect on a Python callable"):
        opened(project, python="data.py:vectors", batch=3)


def test_the_digest_covers_code_options_and_named_files(project):
    (project / "raw.bin").write_bytes(b"1")
    seen = {opened(project, python="data.py:vectors").digest()}
    seen.add(opened(project, python="data.py:vectors", options={"size": 2}).digest())
    seen.add(opened(project, python="data.py:vectors", samples=3).digest())
    named = {"python": "data.py:vectors", "options": {"file": "raw.bin"}}
    seen.add(opened(project, **named).digest())
    (project / "raw.bin").write_bytes(b"2")
    seen.add(opened(project, **named).digest())
    projects.write(project, data=CODE + "\n# changed\n")
    seen.add(opened(project, **named).digest())
    assert len(seen) == 6


def test_lists_and_scalars_become_arrays(tmp_path):
    projects.write(
        tmp_path, data="import numpy as np\ndef f():\n    return [({'x': np.zeros((2, 3), np.float32)}, [1, 0])]\n"
    )
    (batch,) = batches(tmp_path, python="data.py:f")
    assert np.array_equal(batch.labels, [1, 0])
