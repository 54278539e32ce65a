"""A program imports what it uses; what it passed over is whole for whoever imports it afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap

IMAGE = 'docs/images/shapes.png'
UNUSED = (
    'imgaug',
    'matplotlib',
    'mmdet',
    'scipy',
    'sklearn',
    'sympy',
    'torch._dynamo.eval_frame',
    'torch.distributed.fsdp',
)
UNUSED += ('timm.models.beit', 'torchvision.models.resnet', 'torch.distributed.optim.functional_adam')

PROGRAMS = """
    import gc, sys
    from pathlib import Path
    from vlm_dense.cli import classify, diff, model_info, print_config, pseudo_label, segment, test, train

    image, out = {image!r}, Path({out!r})
    names = ['--classes', 'empty background', 'circle', 'star']
    segment.main([image, *names, '--out', str(out / 'segment'), '-q'])
    assert gc.isenabled() and gc.get_freeze_count() > 100000
    segment.main([image, *names, '--method', 'naclip', '--out', str(out / 'naclip'), '-q'])
    classify.main([image, *names, '--out', str(out / 'classify'), '-q'])
    (out / 'images').mkdir()
    (out / 'images' / 'one.png').write_bytes(Path(image).read_bytes())
    pseudo_label.main(['maskclip_tiny-vit', 'none', str(out / 'images'), str(out / 'masks'), '-q', *names])
    assert not set({unused!r}) & set(sys.modules), sorted(set({unused!r}) & set(sys.modules))
    drawn = set({unused!r}) - set(('matplotlib', 'scipy'))  # of mmengine's visualizer, of mmseg's transforms
    print_config.main(['denseclip_shapes'])
    few = ['train_cfg.max_epochs=1', 'train_dataloader.dataset.shots=1', 'val_dataloader.dataset.shots=1']
    few += ['custom_hooks=[]']
    train.main(['coop_shapes', '-q', '--work-dir', str(out / 'coop'), '--cfg-options', *few])
    one = ['test_dataloader.dataset.num_scenes=1', 'test_dataloader.num_workers=0']
    one += ['test_dataloader.persistent_workers=False']
    test.main(['maskclip_tiny-vit_shapes', '-q', '--work-dir', str(out / 'test'), '--cfg-options', *one])
    assert diff.main(['sclip_vit-b16_voc21', 'clearclip_vit-b16_voc21']) == 1
    assert not drawn & set(sys.modules), sorted(drawn & set(sys.modules))
    largest = {{'imgaug', 'mmdet', 'sklearn'}}
    model_info.main(['denseclip_shapes', '--shape', '64', '64'])
    assert not largest & set(sys.modules), sorted(largest & set(sys.modules))

    # and now all that was passed over
    import timm, torch, torchvision
    from timm.models.convnext import ConvNeXt
    from vlm_dense.clip.building import timm_trunk
    assert type(timm_trunk('convnext_pico')) is ConvNeXt is timm.models.ConvNeXt and 'timm.models.beit' in sys.modules
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    assert torchvision.ops.nms(boxes, torch.ones(2), 0.5).tolist() == [0] and torchvision.models.get_model('alexnet')
    import mmengine.optim
    from mmengine.registry import OPTIMIZERS
    assert mmengine.optim.OptimWrapper is mmengine.optim.optimizer.optimizer_wrapper.OptimWrapper
    assert OPTIMIZERS.get('SGD') is torch.optim.SGD
    from vlm_dense.methods.maskclip.segmentor import MaskCLIP
    from vlm_dense.registry import MODELS
    import mmengine.model, mmseg.models, mmseg.datasets, torch._dynamo, vlm_dense.methods, vlm_dense.segmentation
    assert mmseg.models.EncoderDecoder in MaskCLIP.__mro__
    assert mmseg.models.segmentors.encoder_decoder.EncoderDecoder is mmseg.models.EncoderDecoder
    assert vlm_dense.methods.maskclip.segmentor.MaskCLIP is vlm_dense.methods.maskclip.MaskCLIP is MaskCLIP
    assert mmseg.models.losses.accuracy.__name__ == 'accuracy' and mmengine.model.MMDistributedDataParallel
    assert MODELS.get('FPNHead') is mmseg.models.FPNHead and MODELS.get('vlm_dense.DenseCLIP')
    assert MODELS.get('Mask2FormerHead') is mmseg.models.Mask2FormerHead and 'mmdet' in sys.modules
    assert torch._dynamo.eval_frame and torch.compiler.disable.__module__ == 'torch.compiler'
    print('whole')
"""


def test_programs_import_what_they_use_and_leave_the_rest_whole(tmp_path):
    code = textwrap.dedent(PROGRAMS.format(image=IMAGE, out=str(tmp_path), unused=UNUSED))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'whole'


NAMES = """
    import sys
    from vlm_dense import light
    from vlm_dense.cli import arguments

    arguments.setup(uses=('vlm_dense.engine.runner.launch',))
    from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIMIZERS, TASK_UTILS, TRANSFORMS, DefaultScope
    from vlm_dense.engine.configs.components import component

    found = dict()
    for scope, registry, name in {names!r}:
        with vars()[registry].switch_scope_and_registry(scope) as scoped:
            found[scope, name] = scoped.get(name)
    assert light.begun() and 'mmdet.models.dense_heads.atss_head' not in sys.modules
    assert component('Resize', 'mmdet') is not component('Resize', 'mmseg') and component('RoIAlign', 'mmdet') is None
    assert light.begun() and not set(('imgaug', 'sklearn', 'mmseg.models', 'mmdet.models')) & set(sys.modules)

    import mmdet.models.losses, mmseg.models.losses
    assert callable(mmdet.models.losses.accuracy) and callable(mmseg.models.losses.accuracy)
    with MODELS.switch_scope_and_registry('mmseg') as scoped:
        try:
            scoped.get('FCNHaed')
        except RuntimeError as error:
            assert str(error) == 'Failed to get FCNHaed'
    assert not light.begun() and 'mmseg.models' in sys.modules and 'imgaug' in sys.modules
    for scope, registry, name in {names!r}:
        with vars()[registry].switch_scope_and_registry(scope) as scoped:
            assert scoped.get(name) is found[scope, name], name
            assert light.begun() or scoped.get(name).__name__ == name.rpartition('.')[2], name
    for package in ('vlm_dense', 'mmseg', 'mmdet'):  # what is registered is where the sources say
        index = light._index(package)
        for registry in (DATASETS, HOOKS, METRICS, MODELS, TASK_UTILS, TRANSFORMS):
            for name, kind in registry.children[package].module_dict.items():
                assert index[name] in (None, kind.__module__) or not kind.__module__.startswith(package), name
    print('whole')
"""
KNOWN = [
    ('mmseg', 'MODELS', 'FCNHead'),
    ('mmengine', 'MODELS', 'mmseg.EncoderDecoder'),
    ('mmseg', 'MODELS', 'mmdet.FocalLoss'),
    ('mmseg', 'MODELS', 'vlm_dense.DenseCLIP'),
    ('mmdet', 'MODELS', 'RetinaHead'),
    ('mmdet', 'TASK_UTILS', 'AnchorGenerator'),
    ('mmdet', 'DATASETS', 'CocoDataset'),
    ('mmdet', 'TRANSFORMS', 'Resize'),
    ('mmseg', 'TRANSFORMS', 'Resize'),
    ('mmseg', 'METRICS', 'mmdet.CocoMetric'),
    ('vlm_dense', 'MODELS', 'FPNHead'),
    ('mmseg', 'HOOKS', 'CheckpointHook'),
    ('mmengine', 'OPTIMIZERS', 'AdamW'),
]


def test_any_name_of_mmseg_and_mmdet_is_found_and_an_unknown_one_imports_all():
    code = textwrap.dedent(NAMES.format(names=KNOWN))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'whole'
