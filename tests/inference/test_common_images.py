"""What the inferencers take for an image."""

from __future__ import annotations

import http.server
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_dense.errors import DataError
from vlm_dense.inference import images
from vlm_dense.inference.images import file_names, image_list, load_image, source_name


def test_images_of_pil_are_turned_and_have_their_colours():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[0, 0] = 200, (1, 2, 3)
    image = Image.fromarray(pixels)
    (plain,) = image_list(image)
    assert plain.shape == (4, 6, 3) and plain[0, 0].tolist() == [3, 2, 1] and plain[1, 1].tolist() == [0, 0, 200]
    image.getexif()[0x0112] = 6  # a quarter to the right
    (turned,) = image_list([image])
    assert turned.shape == (6, 4, 3) and turned[0, -1].tolist() == [3, 2, 1]


def test_grey_arrays_get_three_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for given in (grey, grey[..., None]):
        (image,) = image_list([given])
        assert np.array_equal(load_image(image), np.stack([grey] * 3, -1))


@pytest.fixture(scope='module')
def pixels() -> np.ndarray:
    """uint8 (5, 7, 3) BGR."""
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def file(pixels, tmp_path) -> Path:
    path = tmp_path / 'images' / 'a b.png'
    path.parent.mkdir()
    Image.fromarray(pixels[..., ::-1]).save(path)
    return path


KINDS = {
    'a path': lambda file, pixels: file,
    'a file URL': lambda file, pixels: file.as_uri(),
    'a folder': lambda file, pixels: [str(file.parent)],
    'a glob': lambda file, pixels: str(file.parent / '*.p?g'),
    'a glob through folders': lambda file, pixels: str(file.parent.parent / '**' / 'a b.png'),
    'bytes': lambda file, pixels: file.read_bytes(),
    'a bytearray': lambda file, pixels: [bytearray(file.read_bytes())],
    'bytes in memory': lambda file, pixels: io.BytesIO(file.read_bytes()),
    'an array': lambda file, pixels: pixels,
    'floats': lambda file, pixels: pixels / 255,
    'float32': lambda file, pixels: [(pixels / 255).astype(np.float32)],
    '16 bits': lambda file, pixels: pixels.astype(np.uint16) * 256 + 255,
    'BGRA': lambda file, pixels: np.dstack([pixels, pixels[..., 0]]),
    'a batch of arrays': lambda file, pixels: pixels[None],
    'a tensor': lambda file, pixels: torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1),
    'a tensor of floats': lambda file, pixels: torch.from_numpy(pixels[..., ::-1] / 255).permute(2, 0, 1),
    'a batch of tensors': lambda file, pixels: torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None],
    'an image of PIL': lambda file, pixels: Image.open(file),
    'RGBA of PIL': lambda file, pixels: Image.open(file).convert('RGBA'),
    'a generator': lambda file, pixels: (one for one in [pixels]),
    'a tuple': lambda file, pixels: (str(file),),
}


@pytest.mark.parametrize('kind', KINDS)
def test_all_kinds_of_inputs_are_the_same_image(kind, file, pixels):
    (source,) = image_list(KINDS[kind](file, pixels))
    np.testing.assert_array_equal(load_image(source), pixels)


def test_an_open_file_keeps_its_name(file, pixels):
    with file.open('rb') as opened:
        found = image_list([opened, pixels, str(file)])
    assert file_names(found) == ['a b', '00000001', 'a b_2'] and source_name(found[0], 0) == 'a b.png'


@pytest.mark.parametrize(
    ('source', 'told'),
    [
        (np.full((4, 4, 3), 200.0), 'numbers from 0 to 1, found 200 to 200'),
        (np.full((4, 4, 3), np.nan), 'numbers from 0 to 1, found nan'),
        (np.full((4, 4, 3), -0.5, np.float32), 'was normalised is no input'),
        (np.zeros((4, 4, 3), np.int64), 'found int64'),
        (np.zeros((3, 8, 8), np.uint8), 'An array has its channels last'),
        (torch.zeros(8, 8, 3), 'A tensor has its channels first'),
        (np.zeros((4, 4, 5), np.uint8), r'found uint8 \(4, 4, 5\)'),
        (b'no image', 'Image of the bytes given .8 bytes. cannot be read'),
        (b'', 'cannot be read'),
        (io.StringIO('text'), 'rb'),
        ('file://elsewhere/a.png', 'three slashes'),
        ('none*.png', 'No file matches'),
        (dict(a=1), 'found dict'),
        (iter(()), 'empty list'),
        ('s3://bucket/a.png', 'storage that cannot be read'),
    ],
)
def test_what_cannot_be_an_image_is_told(source, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=told):
        [load_image(one) for one in image_list(source)]


@pytest.fixture(scope='module')
def server(pixels):
    """Address of a server on this machine: an image, a page, a file that is none, and nothing else."""
    image = io.BytesIO()
    Image.fromarray(pixels[..., ::-1]).save(image, 'PNG')
    answers = {
        '/a%20b.png': (200, 'image/png', image.getvalue()),
        '/page': (200, 'text/html', b'<html>'),
        '/junk.jpg': (200, 'image/jpeg', b'junk'),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            status, kind, content = answers.get(self.path, (404, 'text/plain', b''))
            self.send_response(status)
            self.send_header('Content-Type', kind)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{serving.server_port}'
        serving.shutdown()


def test_urls_are_read_or_told(server, pixels, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    (source,) = image_list(f'{server}/a%20b.png')
    np.testing.assert_array_equal(load_image(source), pixels)
    assert file_names([source]) == ['a b']
    for path, told in (('none.png', '404'), ('page', 'is a web page'), ('junk.jpg', 'Image junk.jpg .4 bytes.')):
        with pytest.raises(DataError, match=told):
            [load_image(one) for one in image_list(f'{server}/{path}')]
    monkeypatch.setattr(images, 'MAX_DOWNLOAD', 10)
    with pytest.raises(DataError, match='more than 10 bytes'):
        image_list(f'{server}/a%20b.png')
    with pytest.raises(DataError, match='cannot be read: .*this machine has a network'):
        image_list('http://127.0.0.1:1/a.png')
