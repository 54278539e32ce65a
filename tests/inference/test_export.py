from __future__ import annotations

import json
import logging
import pickle
import sys
import zipfile

import numpy as np
import onnx
import pytest
import tiny_towers
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from onnx import TensorProto, helper
from segmentation import open_models

from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, DataError
from vlm_dense.export.graph import graph_of
from vlm_dense.export.metadata import KEY, parse
from vlm_dense.export.runtime import ExportedFile
from vlm_dense.inference import DetInferencer, ExportedClassifier, SegInferencer, export_file, export_model

NAMES = ['circle', 'star', 'square']
ARCH = tiny_towers.vit()
TEXT = dict(type='vlm_dense.TextTower', arch=ARCH)
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 61.0, 62.0]
PREPARE = dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True)
REFINED = [dict(type='vlm_dense.Probabilities'), dict(type='vlm_dense.PAMR', iterations=2, dilations=(1, 2))]
DECIDED = [
    dict(type='vlm_dense.OriginalSize'),
    dict(type='vlm_dense.PAMR', iterations=2, dilations=(1, 2)),
    dict(type='vlm_dense.Probabilities', scale=30.0),
    dict(type='vlm_dense.Aliases'),
    dict(type='vlm_dense.AreaThreshold', thresh=0.1),
    dict(type='vlm_dense.ProbabilityThreshold', thresh=0.4),
    dict(type='vlm_dense.SumToOne'),
]


@pytest.fixture(autouse=True, scope='module')
def _no_trace_records():
    """pytest's handler would format every step of torch's tracing, which takes longer than the tracing."""
    logger = logging.getLogger('torch.__trace')
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def maskclip(**kwargs) -> Config:
    torch.manual_seed(0)
    model = dict(
        type='vlm_dense.MaskCLIP',
        data_preprocessor=PREPARE,
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
        text_encoder=TEXT,
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a {}.']),
        class_names=NAMES,
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    return Config(dict(model={**model, **kwargs}, test_pipeline=[dict(type='PackSegInputs')]))


def classifier(prompt: dict, **kwargs) -> Config:
    torch.manual_seed(0)
    model = dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
        text_encoder=TEXT,
        text_prompt=prompt,
        class_names=NAMES,
        **kwargs,
    )
    steps = [dict(type='Resize', scale=(32, 32)), dict(type='vlm_dense.PackClsInputs')]
    return Config(dict(default_scope='mmengine', model=model, test_pipeline=steps))


def checkpoint(cfg: Config, path) -> str:
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), path)
    return str(path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('exported')


@pytest.fixture(scope='module')
def segmentor(folder):
    """MaskCLIP of PyTorch, with several names a class, and its two files."""
    cfg = maskclip(class_names=['circle', ['star', 'cross'], 'square'], postprocess=REFINED)
    weights = checkpoint(cfg, folder / 'maskclip.pth')
    export_file(cfg.copy(), weights, folder / 'open.pt2')
    export_file(cfg.copy(), weights, folder / 'fixed.onnx', size=(61, 83))  # open sizes as ONNX: test_benchmarks
    return SegInferencer(cfg, weights, 'cpu', show_progress=False)


# --- the same labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['fixed.onnx', 'open.pt2'])
def test_a_file_gives_the_labels_of_the_model(segmentor, folder, name):
    file = SegInferencer(folder / name, device='cpu', show_progress=False)
    assert file.class_names == NAMES
    photos = [photo(61, 83), photo(61, 83)]
    if name == 'open.pt2':  # also that of the table of positions
        photos.append(photo(32, 32))
    found = file(photos, batch_size=3, return_scores=True)
    expected = segmentor(photos, batch_size=3, return_scores=True)
    assert len(np.unique(expected['predictions'][0])) > 1
    for key in ('predictions', 'scores'):
        for one, other in zip(found[key], expected[key], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


WINDOWS = dict(mode='slide', crop_size=(32, 32), stride=(24, 24), resize=(56, 56), overview=True)


@pytest.mark.parametrize(
    ('kind', 'suffix', 'test_cfg'),
    [
        ('cat_seg', 'onnx', WINDOWS),
        pytest.param('sed', 'pt2', dict(mode='whole'), marks=pytest.mark.long),
        pytest.param('cat_seg', 'pt2', dict(mode='whole'), marks=pytest.mark.long),
        pytest.param('sed', 'onnx', WINDOWS, marks=pytest.mark.long),
    ],
)
def test_a_trained_open_vocabulary_model_with_its_classes_gives_its_labels(kind, suffix, test_cfg, tmp_path):
    model = open_models.BUILD[kind](test_cfg=test_cfg).eval()
    model.set_class_names(['tree', ['house', 'building'], 'water', 'dog'])
    cfg = Config(dict(model=dict(data_preprocessor=PREPARE), test_pipeline=[dict(type='PackSegInputs')]))
    path = tmp_path / f'model.{suffix}'
    found = export_model(model, cfg, path, ['tree', 'house', 'water', 'dog'])
    assert found['size'] is None and found['batch'] and found['maps']['kind'] == 'probabilities'
    file = MODELS.build(dict(type='vlm_dense.ExportedSegmentor', path=str(path), test_cfg=dict(test_cfg)))
    for size in ((32, 32), (64, 64), (45, 70)):
        images, pairs = open_models.images(2, size), [open_models.samples(2, size) for _ in range(2)]
        with torch.no_grad():
            wanted, given = (m.predict(images, own) for m, own in zip((model, file), pairs, strict=True))
        for one, other in zip(wanted, given, strict=True):
            assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
            torch.testing.assert_close(other.seg_logits.data, one.seg_logits.data, rtol=1e-4, atol=1e-4)
        assert len(torch.stack([one.pred_sem_seg.data for one in wanted]).unique()) > 1


def test_classes_rejected_by_the_image_are_no_fixed_graph(tmp_path):
    model = open_models.sed(head=dict(top_k=1)).eval()
    cfg = Config(dict(model=dict(data_preprocessor=PREPARE), test_pipeline=[dict(type='PackSegInputs')]))
    with pytest.raises(ConfigError, match='top_k=1 rejects classes by the image.*top_k=None'):
        export_model(model, cfg, tmp_path / 'model.pt2', open_models.NAMES, size=(32, 32))


@pytest.mark.parametrize(
    ('options', 'older'),
    [
        ({}, {}),
        (dict(decode_head=dict(refinements=[dict(type='vlm_dense.KeySmoothing')])), dict(summed=True)),
        (dict(postprocess=REFINED), dict(pamr=dict(iterations=2, dilations=[1, 2]))),
        (
            dict(postprocess=DECIDED),
            dict(
                decision=dict(
                    scale=30.0,
                    prob_thresh=0.4,
                    area_thresh=0.1,
                    sum_to_one=True,
                    two_steps=True,
                    pamr=dict(iterations=2, dilations=[1, 2]),
                )
            ),
        ),
    ],
    ids=['plain', 'smoothed', 'pamr', 'decision'],
)
@torch.no_grad()
def test_files_of_format_1_are_read(monkeypatch, options, older):
    model = MODELS.build(maskclip(class_names=['circle', ['star', 'cross'], 'square'], **options).model).eval()

    class File:
        metadata = dict(
            format=1,
            task='segmentation',
            classes=NAMES,
            pipeline=[],
            data_preprocessor=PREPARE,
            names=[['circle'], ['star', 'cross'], ['square']],
            test_cfg=dict(mode='whole'),
            align_corners=False,
            num_classes=3,
            out_channels=3,
            threshold=None,
            scale=100.0,
        )
        metadata.update(dict(summed=False, pamr=None, decision=None) | older)

        def __call__(self, images):  # PAMR of that time refined probabilities that the network gave
            maps = model.window_map(images)
            return (model.decode_head.probabilities(maps) if self.metadata['pamr'] else maps,)

    assert parse(json.dumps(File.metadata), 'x.onnx') == File.metadata
    monkeypatch.setattr('vlm_dense.export.models.ExportedFile', lambda path: File())
    file = MODELS.build(dict(type='vlm_dense.ExportedSegmentor', path='x.onnx', test_cfg=dict(mode='whole')))
    model.test_cfg.keep_logits = True
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    [found], [wanted] = file.predict(images), model.predict(images)
    assert torch.equal(found.seg_logits.data, wanted.seg_logits.data)
    assert torch.equal(found.pred_sem_seg.data, wanted.pred_sem_seg.data)
    scores = wanted.seg_logits.data
    torch.testing.assert_close(file.probabilities(scores), model.probabilities(scores))


def test_the_text_tower_is_not_in_the_file(segmentor, folder):
    words = segmentor.model.decode_head.text_encoder.token_embedding.weight.numel()
    program = onnx.load(folder / 'fixed.onnx')
    assert sum(np.prod(t.dims) for t in program.graph.initializer) < words / 10
    assert (folder / 'open.pt2').stat().st_size < words
    assert [i.name for i in program.graph.input] == ['images']
    assert [o.name for o in program.graph.output] == ['maps']


def test_windows_are_those_of_the_config(folder):
    cfg = maskclip(test_cfg=dict(mode='slide', crop_size=(24, 24), stride=(16, 16), window_multiple=16))
    weights = checkpoint(cfg, folder / 'windows.pth')
    found = export_file(cfg.copy(), weights, folder / 'windows.pt2', size=(32, 32))
    assert found['size'] == [32, 32]  # a window of 24 px is padded to 32
    plain, file = (
        SegInferencer(*x, device='cpu', show_progress=False) for x in ((cfg, weights), (folder / 'windows.pt2',))
    )
    np.testing.assert_array_equal(plain(photo(50, 70))['predictions'], file(photo(50, 70))['predictions'])


def test_denseclip_with_its_context_decoder(folder):
    model = dict(
        type='vlm_dense.DenseCLIP',
        data_preprocessor=PREPARE,
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, out_indices=[0, 0, 1, 1], pyramid=True),
        text_encoder=dict(TEXT, context_length=16),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=4, name_length=5),
        context_decoder=dict(type='vlm_dense.ContextDecoder', width=16, heads=2, layers=1),
        class_names=NAMES,
        score_concat_index=1,
        gamma=1.0,
        neck=dict(type='FPN', out_channels=16, num_outs=4),
        decode_head=dict(
            type='FPNHead',
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=16,
            dropout_ratio=0.1,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole', keep_logits=False),
    )
    cfg = Config(dict(model=model, test_pipeline=[dict(type='PackSegInputs')]))
    weights = checkpoint(cfg, folder / 'denseclip.pth')
    found = export_file(cfg.copy(), weights, folder / 'denseclip.pt2', NAMES, size=(64, 104))
    assert found['batch']
    plain, file = (
        SegInferencer(*x, device='cpu', show_progress=False) for x in ((cfg, weights), (folder / 'denseclip.pt2',))
    )
    expected = plain(photo(64, 104))['predictions']
    assert len(np.unique(expected)) > 1
    assert (file(photo(64, 104))['predictions'] == expected).mean() > 0.9999
    with pytest.raises(ClassNamesError, match='was trained for its 3 classes'):
        export_file(cfg.copy(), weights, folder / 'other.pt2', ['sky', 'road'])


def test_a_classifier_with_learned_prompts(folder):
    cfg = classifier(dict(type='vlm_dense.CoOpPrompt', num_contexts=4))
    weights = checkpoint(cfg, folder / 'coop.pth')
    found = export_file(cfg.copy(), weights, folder / 'coop.onnx', size=(32, 32))
    assert found['task'] == 'classification' and found['size'] == [32, 32] and found['batch']
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(weights, weights_only=True)['state_dict'])
    file = ExportedClassifier(folder / 'coop.onnx')
    photos = [photo(40, 50), photo(32, 32), photo(33, 90)]
    images = [torch.from_numpy(file._prepare(dict(img=p))['inputs'].numpy()) for p in photos]
    with torch.no_grad():
        expected = model(**model.data_preprocessor(dict(inputs=images)), mode='tensor')
    torch.testing.assert_close(file.logits(photos), expected, atol=1e-3, rtol=1e-4)
    assert [one['label'] for one in file(photos, batch_size=2)] == expected.argmax(dim=1).tolist()
    other = export_file(cfg.copy(), weights, folder / 'coop.pt2', ['sky', 'road'], size=(32, 32))
    assert other['classes'] == ['sky', 'road']  # the context is for any names


def test_a_single_stage_detector(folder):
    init_default_scope('mmdet')
    arch = tiny_towers.resnet()
    model = dict(
        type='vlm_dense.DenseCLIPSingleStage',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32),
        backbone=dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True, attnpool_positions='crop'),
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch, context_length=16),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=4, name_length=5),
        class_names=NAMES,
        neck=dict(type='FPN', out_channels=16, start_level=1, num_outs=3),
        bbox_head=dict(
            type='RetinaHead',
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[8, 16, 32]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1] * 4),
        ),
        test_cfg=dict(
            nms_pre=50, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9
        ),
    )
    steps = [dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs')]
    dataset = dict(type='BaseDetDataset', metainfo=dict(classes=NAMES), pipeline=steps)
    cfg = Config(dict(default_scope='mmdet', model=model, test_dataloader=dict(dataset=dataset)))
    weights = checkpoint(cfg, folder / 'retinanet.pth')
    export_file(cfg.copy(), weights, folder / 'retinanet.pt2', size=(64, 64))
    image = photo(128, 120)
    plain, file = (
        DetInferencer(*x, device='cpu', show_progress=False) for x in ((cfg, weights), (folder / 'retinanet.pt2',))
    )
    expected, found = (one(image)['predictions'][0] for one in (plain, file))
    assert len(expected['labels']) == 9 and found['labels'] == expected['labels']
    np.testing.assert_allclose(found['bboxes'], expected['bboxes'], atol=1e-2)
    np.testing.assert_allclose(found['scores'], expected['scores'], atol=1e-5)
    with pytest.raises(ConfigError, match='is a file for detection, expected one for segmentation'):
        SegInferencer(folder / 'retinanet.pt2')


# --- what a file says of itself ---------------------------------------------------------------------------------


def test_the_metadata_can_be_read_without_vlm_dense(segmentor, folder):
    shown = {entry.key: entry.value for entry in onnx.load(folder / 'fixed.onnx').metadata_props}
    assert json.loads(shown['classes']) == NAMES and json.loads(shown['mean']) == MEAN and shown['channels'] == 'RGB'
    with zipfile.ZipFile(folder / 'open.pt2') as archive:
        [name] = [n for n in archive.namelist() if n.endswith(KEY)]
        found = json.loads(archive.read(name))
    same = ('task', 'classes', 'names', 'pipeline', 'data_preprocessor', 'test_cfg', 'maps', 'batch')
    assert {key: found[key] for key in same} == {key: json.loads(shown[KEY])[key] for key in same}
    assert found['size'] is None and json.loads(shown[KEY])['size'] == [61, 83]
    assert found['maps'] == dict(kind='logits', scale=100.0, of_names=False, background=None)
    assert found['postprocess'][1] == dict(type='vlm_dense.PAMR', iterations=2, dilations=[1, 2])
    assert found['names'][1] == ['star', 'cross']


@pytest.mark.parametrize(
    'change',
    [
        lambda d: d['pipeline'].insert(0, dict(type='os.system', command='true')),
        lambda d: d.update(data_preprocessor=dict(type='subprocess.Popen', args='true')),
        lambda d: d.update(task='detection', head=dict(type='RetinaHead'), test_cfg=dict(nms=dict(type='print(1)'))),
        lambda d: d['pipeline'].insert(0, dict(type='Resize', _scope_='somewhere')),
        lambda d: d['postprocess'].insert(0, dict(type='vlm_dense.CLIPViT')),
    ],
)
def test_a_description_that_names_other_code_is_refused(segmentor, folder, change):
    found = json.loads(json.dumps(ExportedFile(folder / 'fixed.onnx').metadata))
    assert parse(json.dumps(found), 'x.onnx') == found
    change(found)
    with pytest.raises(CheckpointError, match='no exported file needs'):
        parse(json.dumps(found), 'x.onnx')


@pytest.mark.parametrize(
    'text', ['{', '[]', '{"format": 99, "task": "segmentation", "classes": ["a"]}', '{"format": 1}']
)
def test_a_damaged_or_later_description_is_told(text):
    with pytest.raises(CheckpointError, match='damaged|update it'):
        parse(text, 'x.onnx')


# --- files that cannot be used ----------------------------------------------------------------------------------


def test_other_class_names_than_those_of_the_file_are_refused(segmentor, folder):
    file = SegInferencer(folder / 'fixed.onnx', device='cpu', show_progress=False)
    assert file(photo(61, 83), classes=NAMES)['classes'] == NAMES
    with pytest.raises(ClassNamesError, match='was exported for its 3 classes .*found 2 others'):
        file(photo(61, 83), classes=['sky', 'road'])


@pytest.fixture(scope='module')
def foreign(folder):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in 'xy']
    graph = helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'g', values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), folder / 'foreign.onnx'
    )
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), folder / 'foreign.pt2')


@pytest.mark.parametrize('suffix', ['onnx', 'pt2'])
def test_a_foreign_a_damaged_and_an_absent_file_are_told_apart(segmentor, foreign, folder, suffix):
    with pytest.raises(CheckpointError, match='was not written by vlm_dense'):
        SegInferencer(folder / f'foreign.{suffix}')
    cut = folder / f'cut.{suffix}'
    cut.write_bytes((folder / ('fixed.onnx' if suffix == 'onnx' else 'open.pt2')).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='cannot be read: damaged'):
        SegInferencer(cut)
    with pytest.raises(CheckpointError, match='does not exist'):
        SegInferencer(folder / f'absent.{suffix}')


class _Evil:
    def __reduce__(self):
        return print, ('ran',)


@pytest.mark.parametrize('kind', ['pickle', 'target', 'formula'])
def test_a_pt2_that_would_run_code_is_refused_before_it_does(segmentor, folder, kind, capsys):
    evil = folder / f'{kind}.pt2'
    with zipfile.ZipFile(folder / 'open.pt2') as archive, zipfile.ZipFile(evil, 'w') as changed:
        for name in archive.namelist():
            data = archive.read(name)
            if kind == 'pickle' and name.endswith('sample_inputs/model.pt'):
                data = pickle.dumps(_Evil())
            if kind == 'target' and name.endswith('models/model.json'):
                data = data.replace(b'torch.ops.aten.layer_norm.default', b'torch.os.system', 1)
            if kind == 'formula' and name.endswith('models/model.json'):
                data = data.replace(b'"expr_str": "', b'"expr_str": "print(1) + ', 1)
            changed.writestr(name, data)
    with pytest.raises(CheckpointError, match='Nothing was run'):
        SegInferencer(evil)
    assert 'ran' not in capsys.readouterr().out


def test_without_onnxruntime_the_package_to_install_is_named(segmentor, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ConfigError, match='pip install onnxruntime'):
        SegInferencer(folder / 'fixed.onnx')


def test_a_size_that_a_file_does_not_take_is_told(folder):
    cfg = maskclip()
    weights = checkpoint(cfg, folder / 'fixed.pth')
    export_file(cfg, weights, folder / 'small.pt2', size=(32, 40))
    file = SegInferencer(folder / 'small.pt2', device='cpu', show_progress=False)
    assert file(photo(32, 40))['predictions'].shape == (32, 40)
    with pytest.raises(DataError, match='images of 32 x 40 px .* only, found 33 x 40'):
        file(photo(33, 40))


# --- what cannot be written -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['NACLIP', 'ProxyCLIP', 'SCCLIP'])
def test_dense_attention_of_the_last_blocks_as_a_pt2(folder, kind):
    image = dict(type='vlm_dense.CLIPViT', arch=ARCH)
    options = dict(ProxyCLIP=dict(proxy=image), SCCLIP=dict(pre=0, post=0, multi=(0, 1))).get(kind, {})
    cfg = maskclip(backbone=dict(image, head=True, dense_attention=dict(type=f'vlm_dense.{kind}Attention', **options)))
    weights = checkpoint(cfg, folder / f'{kind}.pth')
    export_file(cfg.copy(), weights, folder / f'{kind}.pt2', size=(32, 32))
    found = SegInferencer(folder / f'{kind}.pt2', device='cpu', show_progress=False)(photo(32, 32))['predictions']
    expected = SegInferencer(cfg, weights, 'cpu', show_progress=False)(photo(32, 32))['predictions']
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ('cfg', 'told'),
    [
        (classifier(dict(type='vlm_dense.CoCoOpPrompt', num_contexts=4)), 'the text tower would have to run'),
        (
            classifier(dict(type='vlm_dense.CoOpPrompt'), test_time=dict(type='vlm_dense.TPT')),
            'Export the config without',
        ),
    ],
    ids=['cocoop', 'tpt'],
)
def test_what_depends_on_the_image_is_refused_with_a_way_out(folder, cfg, told):
    init_default_scope('mmengine')
    with pytest.raises(ConfigError, match=told):
        export_model(MODELS.build(cfg.model), cfg, folder / 'never.onnx', NAMES)
    assert not (folder / 'never.onnx').exists()


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match='Linear cannot be exported; what can: segmentors'):
        graph_of(torch.nn.Linear(2, 2))


def test_a_step_that_a_file_cannot_describe_is_named(folder):
    cfg = maskclip()
    cfg.test_pipeline.insert(0, dict(type='RandomFlip', prob=0.5))
    with pytest.raises(ConfigError, match="uses 'RandomFlip', which an exported file cannot describe"):
        export_file(cfg, checkpoint(cfg, folder / 'steps.pth'), folder / 'never.onnx')


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(folder):
    cfg = maskclip()
    weights = checkpoint(cfg, folder / 'place.pth')
    with pytest.raises(DataError, match='cannot be written'):
        export_file(cfg.copy(), weights, folder / 'place.pth' / 'model.pt2', size=(32, 32))
    with pytest.raises(ConfigError, match='ends in .onnx or .pt2'):
        export_file(cfg.copy(), weights, folder / 'model.pt')
    with pytest.raises(ConfigError, match="found model.pt2 for the format 'onnx'"):
        export_file(cfg.copy(), weights, folder / 'model.pt2', format='onnx')
    assert not list(folder.glob('*.partial*'))
