import zipfile

import numpy as np
import pytest
from datasets import BATCH, counted, opened
from PIL import Image

from enginery.errors import DataError
from enginery.pipeline.data.images import preprocess
from enginery.pipeline.recipe import ImagePreprocess, Tensor

INPUTS = {"image": Tensor(shape=("batch", 3, 8, 8))}
PLAIN = {"resize": 8, "crop": 8}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("c.png", "a.png", "sub/b.png"):
        Image.fromarray(random.integers(0, 256, (12, 20, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return tmp_path


def zipped(folder):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted((folder / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "photos"))
    return "photos.zip"


def read(folder, images="photos", image=None, **data):
    return counted(opened(folder, INPUTS, BATCH, images=images, image=image or PLAIN, **data))


def test_all_images_in_order_of_names(photos):
    (batch,) = read(photos)
    assert batch.inputs["image"].shape == (3, 3, 8, 8)
    assert batch.inputs["image"].dtype == np.float32
    assert batch.labels is None
    assert batch.origin == "a.png to sub/b.png"


def test_a_zip_gives_what_its_folder_gives(photos):
    (one,), (other,) = read(photos), read(photos, zipped(photos))
    assert np.array_equal(one.inputs["image"], other.inputs["image"])


def test_a_table_gives_order_and_labels(photos):
    (photos / "l.csv").write_text("file,label,licence\nsub/b.png,7,x\na.png,3,y\n")
    (batch,) = read(photos, labels="l.csv")
    assert batch.labels.tolist() == [7, 3]
    assert np.array_equal(batch.inputs["image"][1], read(photos)[0].inputs["image"][0])


def test_the_first_samples_in_batches(photos):
    assert [len(batch.inputs["image"]) for batch in read(photos, batch=1, samples=2)] == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,1\n", r"no columns \['file'\]; it has \['name', 'label'\]"),
        ("file,label\nz.png,1\n", r"lists 1 files that are not in photos, such as z\.png"),
        ("file,label\na.png,cat\n", r"line 2: the label 'cat' is no whole number"),
    ],
)
def test_faults_of_a_table(photos, text, message):
    (photos / "l.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(photos, labels="l.csv")


def test_a_damaged_image_is_named(photos):
    path = photos / "photos" / "c.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"photos: cannot read the image c\.png"):
        read(photos)


def test_an_image_that_claims_too_many_pixels(photos):
    Image.new("1", (20_000, 6_000)).save(photos / "photos" / "a.png")
    with pytest.raises(DataError, match=r"a\.png claims 20000 x 6000 pixels"):
        read(photos)


def test_an_image_smaller_than_the_crop(photos):
    with pytest.raises(DataError, match="is 20 x 12; the crop is 16"):
        read(photos, image={"crop": 16})


def test_a_folder_without_images(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        read(tmp_path)


def test_several_inputs_need_a_name(photos):
    inputs = {**INPUTS, "scale": Tensor(shape=("batch",))}
    with pytest.raises(DataError, match="say which one the images fill"):
        opened(photos, inputs, BATCH, images="photos", image=PLAIN)


def test_the_digest_covers_content_and_preprocessing(photos):
    def digest(**image):
        return opened(photos, INPUTS, BATCH, images="photos", image={**PLAIN, **image}).digest()

    before = digest()
    assert digest(channels="BGR") != before
    assert digest() == before
    Image.new("RGB", (20, 12)).save(photos / "photos" / "a.png")
    assert digest() != before


def gradient(width=20, height=12):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 10, 20, 30
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("channels", "wanted"), [("RGB", [10, 20, 30]), ("BGR", [30, 20, 10])])
def test_colour_order(channels, wanted):
    pixels = preprocess(gradient(), ImagePreprocess(scale=1.0, channels=channels), "x")
    assert pixels.shape == (3, 12, 20)
    assert pixels[:, 0, 0].tolist() == wanted


def test_grey():
    assert preprocess(gradient(), ImagePreprocess(channels="L"), "x").shape == (1, 12, 20)


def test_scale_comes_before_mean_and_std():
    how = ImagePreprocess(scale=0.1, mean=(1.0, 1.0, 1.0), std=(2.0, 2.0, 4.0), layout="NHWC")
    assert np.allclose(preprocess(gradient(), how, "x")[0, 0], [0.0, 0.5, 0.5])


@pytest.mark.parametrize(("size", "wanted"), [((20, 12), (8, 13)), ((12, 20), (13, 8)), ((12, 12), (8, 8))])
def test_the_short_side_is_resized(size, wanted):
    assert preprocess(gradient(*size), ImagePreprocess(resize=8), "x").shape[1:] == wanted


def test_the_crop_is_of_the_centre():
    pixels = np.zeros((10, 14), np.uint8)
    pixels[3:7, 5:9] = 255
    cropped = preprocess(Image.fromarray(pixels), ImagePreprocess(crop=4, channels="L"), "x")
    assert cropped.min() == 1.0
