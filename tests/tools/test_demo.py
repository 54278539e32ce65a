"""The page: what it does, and in a real browser what a person sees."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from vlm_dense.cli import demo
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.inference import SegInferencer
from vlm_dense.inference import page as web_page

TOOLS = Path(__file__).parents[2] / 'tools'


SECONDS = 30
ENDINGS = ('.png', '.coco.json', '.labelme.json')


@pytest.fixture(scope='module')
def inferencer():
    return SegInferencer('maskclip_tiny-rn', device='cpu', show_progress=False)


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
    return web_page.draw_examples(str(tmp_path_factory.mktemp('examples')))


def test_an_image_and_names_give_masks_with_legend(inferencer, examples):
    path, names = examples[0]
    image = web_page.segment(inferencer, path, names).overlay
    assert image.dtype == np.uint8 and image.shape[0] > image.shape[1] > 480
    assert inferencer.view(names.split(', ')).class_names == names.split(', ')


def test_masks_come_as_files_of_annotation_tools(methods, examples, tmp_path):
    path, names = examples[0]
    answer = web_page.segment_side_by_side(methods, ['maskclip', 'naclip'], path, names)
    shown, files = web_page.written(answer, 'a.png', str(tmp_path))
    assert Path(shown).name == 'masks.png' and len(files) == 6
    for method, paths in (('maskclip', files[:3]), ('naclip', files[3:])):
        labels = answer.labels[method]
        assert [Path(p).name for p in paths] == [f'a.{method}.labels{end}' for end in ENDINGS]
        with Image.open(paths[0]) as png:
            assert png.mode == 'P' and np.array_equal(np.array(png), labels)
        coco, labelme = (json.loads(Path(p).read_text()) for p in paths[1:])
        for annotation in coco['annotations']:
            mask = run_lengths.decode(annotation['segmentation']).astype(bool)
            assert np.array_equal(mask, labels == annotation['category_id'] - 1) and annotation['area'] == mask.sum()
        assert [c['name'] for c in coco['categories']] == answer.classes
        drawn = np.full(labels.shape, 255, np.uint8)
        for shape in labelme['shapes']:
            points = np.array(shape['points'], np.int32)
            cv2.fillPoly(drawn, [points], answer.classes.index(shape['label']))
        assert (drawn == labels).mean() > 0.97
        assert (labelme['imageHeight'], labelme['imageWidth']) == labels.shape


@pytest.mark.parametrize('names', ['', ' , ', 'star', 'star, circle, star', f'circle, {"very " * 99}large star'])
def test_names_that_cannot_be_used_are_a_message(inferencer, examples, names):
    with pytest.raises(ClassNamesError):
        web_page.segment(inferencer, examples[0][0], names)


@pytest.fixture(scope='module')
def methods():
    return web_page.Methods(
        ['maskclip', 'naclip', 'lposs'], lambda name: SegInferencer(f'{name}_tiny-vit', device='cpu')
    )


def test_methods_of_the_menu_stand_side_by_side(methods, examples):
    path, names = examples[0]
    one = web_page.segment_side_by_side(methods, ['naclip'], path, names).overlay
    assert np.array_equal(one, web_page.segment(methods['naclip'], path, names).overlay)
    two = web_page.segment_side_by_side(methods, ['naclip', 'maskclip', 'naclip'], path, names).overlay
    assert two.dtype == np.uint8 and two.shape[1] > 3 * 220
    assert not np.array_equal(two, web_page.segment_side_by_side(methods, ['maskclip', 'naclip'], path, names).overlay)


@pytest.mark.parametrize('chosen', [[], None, ['naclip', 'no such'], ['../secret']])
def test_other_methods_are_a_message(methods, examples, chosen):
    with pytest.raises(ConfigError, match='methods|method'):
        web_page.segment_side_by_side(methods, chosen, *examples[0])


def test_a_model_of_the_menu_is_built_when_it_is_asked_for():
    made = []
    methods = web_page.Methods(['a', 'b'], lambda name: made.append(name) or object())
    assert methods['b'] is methods['b'] and made == ['b']


def test_no_image_is_a_message(inferencer):
    with pytest.raises(DataError, match='image first'):
        web_page.segment(inferencer, None, 'circle, star')


def test_without_gradio_the_program_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(SystemExit) as left:
        demo.main([])
    assert left.value.code == 2 and "pip install '.[demo]' in a clone" in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def page(inferencer, examples, tmp_path_factory):
    pytest.importorskip('gradio')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('GRADIO_TEMP_DIR', str(tmp_path_factory.mktemp('uploads')))
        page = web_page.build_page(inferencer, examples)
        _, url, _ = web_page.launch(page, prevent_thread_lock=True, quiet=True, inbrowser=False)
        yield url
        page.close()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip('needs chromium and chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        'headless',
        'no-sandbox',
        'disable-gpu',
        'disable-quic',
        'no-first-run',
        'disable-background-networking',
        'disable-component-update',
        'disable-sync',
        'window-size=1200,900',
        f'user-data-dir={tmp_path_factory.mktemp("profile")}',
    ):
        options.add_argument(f'--{flag}')
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SECONDS).until(condition)


def find(browser, selector: str):
    return wait(browser, lambda b: b.find_elements('css selector', selector))[0]


def upload(browser, path) -> None:
    find(browser, 'input[type=file]').send_keys(str(path))


def test_in_a_browser_an_example_gives_masks(page, browser, tmp_path):
    browser.get(page)
    wait(browser, lambda b: 'only knows drawn shapes' in find(b, 'body').text)
    find(browser, '.gallery-item, .table-wrap tr.tr-body').click()
    box = find(browser, '#names textarea, #names input')
    wait(browser, lambda b: 'empty background' in box.get_attribute('value'))
    find(browser, 'button#segment').click()
    shown = find(browser, '#masks img')
    wait(browser, lambda b: int(shown.get_attribute('naturalWidth')) > 480)
    wait(browser, lambda b: '.labelme.json' in find(b, '#files').text.replace('\n', ''))
    browser.save_screenshot(str(tmp_path / 'page.png'))
    with Image.open(tmp_path / 'page.png') as screenshot:
        assert len(screenshot.convert('RGB').getcolors(1 << 24)) > 100
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    elsewhere = [url for url in loaded if not url.startswith((page, 'data:', 'blob:'))]
    assert loaded and not elsewhere


def test_on_a_phone_nothing_is_wider_than_the_screen(page, browser, tmp_path):
    browser.set_window_size(500, 900)  # the narrowest that chromium has
    try:
        browser.get(page)
        find(browser, 'button#segment')
        browser.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=1, mobile=True)
        )
        wide = wait(browser, lambda b: b.execute_script('return document.documentElement.scrollWidth'))
        browser.save_screenshot(str(tmp_path / 'phone.png'))
        assert wide <= 390
        table = find(browser, '#examples .table-wrap')
        assert table.get_property('scrollWidth') <= table.get_property('clientWidth')
        box, button = find(browser, '#names'), find(browser, 'button#segment')
        assert box.size['width'] > 300 and button.size['width'] > 300
    finally:
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        browser.set_window_size(1200, 900)


def test_in_a_browser_the_menu_gives_methods_side_by_side(methods, examples, browser, tmp_path):
    pytest.importorskip('gradio')
    page = web_page.build_page(methods, examples)
    _, url, _ = web_page.launch(page, prevent_thread_lock=True, quiet=True, inbrowser=False)
    try:
        browser.get(url)
        find(browser, '.gallery-item, .table-wrap tr.tr-body').click()
        box = find(browser, '#names textarea, #names input')
        wait(browser, lambda b: 'empty background' in box.get_attribute('value'))
        find(browser, '#methods input').send_keys('lposs\n')
        find(browser, 'button#segment').click()
        shown = find(browser, '#masks img')
        wait(browser, lambda b: int(shown.get_attribute('naturalWidth')) > 3 * 240)
        browser.save_screenshot(str(tmp_path / 'menu.png'))
    finally:
        page.close()


def test_in_a_browser_a_file_that_is_no_image_is_a_message(page, browser, tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff' + bytes(500))
    browser.get(page)
    upload(browser, tmp_path / 'broken.jpg')
    find(browser, '#names textarea, #names input').send_keys('circle, star')
    find(browser, 'button#segment').click()
    wait(browser, lambda b: 'broken.jpg (503 bytes) cannot be read' in find(b, '.toast-wrap').text)
