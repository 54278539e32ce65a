"""Clients of the page, many at once, and hostile ones.

python tests/faults/demo_clients.py --clients 16 --seconds 60    # prints how many answers were right

Starts the page with the bundled model on a free port of this machine, asks each question once alone, then many at the
same time, and compares the images pixel by pixel.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

sys.path += [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from faults.hostile import PHOTO, png_header, write  # noqa: E402

from vlm_dense.inference import SegInferencer  # noqa: E402
from vlm_dense.inference import page as web_page  # noqa: E402
from vlm_dense.limits import PAGE_CONCURRENCY, PAGE_PIXELS, PAGE_WAITING  # noqa: E402

FILE = {'_type': 'gradio.FileData'}
WORDS = ['circle, star', 'star, circle', 'empty background, circle, square', 'heart, ring, cross', 'square, heart']
TIMEOUT = 300


class RefusedError(Exception):
    """The page answered with an error."""


class Client:
    """One visitor of the page at ``url``."""

    def __init__(self, url: str):
        self.url = f'{url.rstrip("/")}/gradio_api'
        self.http = httpx.Client(timeout=TIMEOUT, trust_env=False)

    def upload(self, content: bytes, name: str = 'a.png') -> str:
        """Path on the server of an upload."""
        reply = self.http.post(f'{self.url}/upload', files=[('files', (name, content))])
        if reply.status_code != 200:
            raise RefusedError(reply.text)
        return reply.json()[0]

    def ask(self, image, names, **more) -> np.ndarray:
        """The image that the page answers with, RGB (h, w, 3).

        Args:
            image: Path of an upload, or what is sent instead of the file.
            names: Class names.
            **more: Added to the file, or instead of its ``meta``.
        """
        file = dict(dict(path=image, meta=FILE), **more) if isinstance(image, str) else image
        reply = self.http.post(f'{self.url}/call/segment', json=dict(data=[file, names]))
        if reply.status_code != 200:
            raise RefusedError(reply.text)
        kind = None
        with self.http.stream('GET', f'{self.url}/call/segment/{reply.json()["event_id"]}') as lines:
            for line in lines.iter_lines():
                if line.startswith('event:'):
                    kind = line.partition(':')[2].strip()
                elif line.startswith('data:') and kind in ('complete', 'error'):
                    data = line.partition(':')[2].strip()
                    if kind == 'error':
                        raise RefusedError(data)
                    found = self.http.get(json.loads(data)[0]['url'])
                    return np.asarray(Image.open(io.BytesIO(found.content)).convert('RGB'))
        raise RefusedError('no answer')


@contextmanager
def served(concurrency: int = PAGE_CONCURRENCY, waiting: int = PAGE_WAITING) -> Iterator[tuple[str, Path]]:
    """The page on the bundled model: its URL, and a folder that only this process knows."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get('GRADIO_TEMP_DIR')
        os.environ['GRADIO_TEMP_DIR'] = os.path.join(folder, 'uploads')
        inferencer = SegInferencer(device='cpu', show_progress=False, max_pixels=PAGE_PIXELS)
        page = web_page.build_page(inferencer, [], concurrency, waiting)
        _, url, _ = web_page.launch(page, prevent_thread_lock=True, quiet=True, inbrowser=False)
        try:
            yield url, Path(folder)
        finally:
            page.close()
            if before is None:
                del os.environ['GRADIO_TEMP_DIR']
            else:
                os.environ['GRADIO_TEMP_DIR'] = before


def questions() -> list[tuple[bytes, str]]:
    """Images and class names, no two alike."""
    from vlm_dense.datasets import DrawScene, ShapesDataset

    scenes = ShapesDataset(3, 'test', size=96, num_objects=(2, 3), label='shape', pipeline=[DrawScene()])
    found = []
    for scene, names in itertools.product(scenes, WORDS):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(scene['img'][..., ::-1])).save(file, 'PNG')
        found.append((file.getvalue(), names))
    return found


def hammer(url: str, clients: int, seconds: float) -> dict[str, int]:
    """Ask from many threads until the time is over.

    Returns:
        ``answers``, and how many were ``wrong``, that is unlike the answer to the same question alone, or an error.
    """
    asked = questions()
    first = Client(url)
    paths = [first.upload(content, f'{i}.png') for i, (content, _) in enumerate(asked)]
    alone = [first.ask(path, names) for path, (_, names) in zip(paths, asked, strict=True)]
    end = time.monotonic() + seconds

    def visit(number: int) -> list[bool]:
        client, right = Client(url), []
        for turn in itertools.count():
            if time.monotonic() > end and turn:
                return right
            k = (7 * number + turn) % len(asked)
            try:
                right.append(np.array_equal(client.ask(paths[k], asked[k][1]), alone[k]))
            except RefusedError:
                right.append(False)

    with ThreadPoolExecutor(clients) as pool:
        results = [one for part in pool.map(visit, range(clients)) for one in part]
    return dict(answers=len(results), wrong=results.count(False))


@contextmanager
def listener() -> Iterator[tuple[str, list]]:
    """A web server of this machine, and the visits that it got."""
    visits: list = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            visits.append(self.client_address)
            self.request.sendall(b'HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n' + PHOTO)

    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f'http://127.0.0.1:{server.server_address[1]}/a.png', visits
        finally:
            server.shutdown()


def hostile(url: str, folder: Path) -> dict[str, str]:
    """Ask for what must not be given; name -> what came back, '' for an answer.

    Args:
        url: The page.
        folder: A folder of its machine that is not the one of uploads.
    """
    secret = write(folder / 'secret.png', PHOTO)
    fifo = folder / 'fifo'
    os.mkfifo(fifo)
    client, replies = Client(url), {}
    own = client.upload(PHOTO)
    uploads = str(Path(own).parents[1])

    def attempt(name: str, call) -> None:
        try:
            call()
            replies[name] = ''
        except (RefusedError, httpx.HTTPError) as error:  # an error of HTTP: the page drops the visitor
            replies[name] = str(error) or 'an error'

    def posted(route: str, **body) -> None:
        reply = client.http.post(f'{client.url}/{route}', json=body)
        if reply.status_code != 200:
            raise RefusedError(reply.text)

    def fetched(route: str) -> None:
        reply = client.http.get(f'{client.url}/{route}')
        if reply.status_code != 200 or reply.content == PHOTO:
            raise RefusedError(reply.text)

    places = {
        'an image of the server': str(secret),
        'no such file': str(folder / 'absent.png'),
        'a text of the system': '/etc/passwd',
        'its environment': '/proc/self/environ',
        'a fifo': str(fifo),
        'a device': '/dev/zero',
        'a folder': uploads,
        'out of the folder of uploads': f'{uploads}/../secret.png',
        'a file url': f'file://{secret}',
        'nothing': '\0',
    }
    with listener() as (web, visits):
        for name, path in {**places, 'a url': web}.items():
            attempt(f'{name}, as an upload', lambda path=path: client.ask(path, 'circle, star'))
            attempt(f'{name}, without meta', lambda path=path: client.ask(dict(path=path), 'circle, star'))
            attempt(f'{name}, as a stream', lambda path=path: client.ask(path, 'circle, star', is_stream=True))
        attempt('a url beside nothing', lambda: client.ask(dict(path=None, url=web, meta=FILE), 'circle, star'))
        data = 'data:image/png;base64,AAAA'
        attempt('a data url', lambda: client.ask(dict(path=None, url=data, meta=FILE), 'circle, star'))
        if visits:
            replies['a url'] = ''
    file = dict(path=own, meta=FILE)
    for route in ('run/segment', 'api/segment', 'run/predict', 'api/predict'):
        attempt(f'unqueued, {route}', lambda route=route: posted(route, data=[file, 'circle, star']))
        for number in range(4):
            body = dict(data=[file, 'a, b'], fn_index=number)
            attempt(f'unqueued by number {number}, {route}', lambda route=route, body=body: posted(route, **body))
    for path in (secret, '/etc/passwd', f'{uploads}/../secret.png', f'{folder}/uploads/%2e%2e/secret.png'):
        attempt(f'the route of files, {Path(path).name} of {len(str(path))}', lambda path=path: fetched(f'file={path}'))
    attempt('no image', lambda: client.ask(None, 'circle, star'))
    attempt('a number for an image', lambda: client.ask(7, 'circle, star'))
    attempt('a list for an image', lambda: client.ask([own], 'circle, star'))
    attempt('numbers for names', lambda: client.ask(own, 7))
    attempt('no names', lambda: client.ask(own, ''))
    attempt('null for names', lambda: client.ask(own, None))
    attempt('a flood of names', lambda: client.ask(own, ','.join(map(str, range(5000)))))
    attempt('a long name', lambda: client.ask(own, 'a' * 10_000_000))
    attempt('a bomb', lambda: client.ask(client.upload(png_header(30_000, 30_000)), 'circle, star'))
    attempt('no image at all', lambda: client.ask(client.upload(b'<svg/>', 'a.svg'), 'circle, star'))
    attempt('too many bytes', lambda: client.ask(client.upload(bytes(web_page.MAX_BYTES + 1)), 'circle, star'))
    return replies


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clients', type=int, default=16)
    parser.add_argument('--seconds', type=float, default=60)
    args = parser.parse_args()
    with served() as (url, folder):
        start = time.monotonic()
        found = hammer(url, args.clients, args.seconds)
        wrong, took = found['wrong'], time.monotonic() - start
        print(f'{args.clients} clients, {took:.0f} s: {found["answers"]} answers, {wrong} wrong')
        replies = hostile(url, folder)
        answered = [name for name, reply in replies.items() if not reply]
        print(f'{len(replies)} hostile requests, {len(answered)} answered: {", ".join(answered) or "none"}')


if __name__ == '__main__':
    main()
