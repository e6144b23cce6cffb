"""From a picture file to the encoder's input."""

import pytest

from bench.throughput.full_size import write_pictures
from models.preprocessing import Preprocessing, read_picture

PICTURES = 8


@pytest.mark.benchmark(group="reading")
def test_read_pictures(benchmark, measure_on_cpu, tmp_path):
    """JPEG files of 640 x 480 pixels to tensors of 256 x 256."""
    paths, preprocessing = write_pictures(tmp_path, PICTURES), Preprocessing(size=256)
    measured = measure_on_cpu(
        benchmark,
        lambda: [preprocessing(read_picture(path)) for path in paths],
        images=PICTURES,
        rounds=9,
    )
    assert all(pixels.shape == (3, 256, 256) for pixels in measured.result)
