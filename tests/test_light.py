"""A program imports what it uses; what it passed over is whole for whoever imports it afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap

IMAGE = 'docs/images/shapes.png'
UNUSED = ('imgaug', 'matplotlib', 'mmdet', 'scipy', 'sklearn', 'sympy', 'torch._dynamo.eval_frame', 'torch.distributed.fsdp')
UNUSED += ('timm.models.beit', 'torchvision.models.resnet', 'torch.distributed.optim.functional_adam')

PROGRAMS = """
    import gc, sys
    from pathlib import Path
    from vlm_dense.cli import classify, diff, model_info, print_config, pseudo_label, segment

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
    print_config.main(['denseclip_shapes'])
    model_info.main(['denseclip_shapes', '--shape', '64', '64'])
    assert diff.main(['sclip_vit-b16_voc21', 'clearclip_vit-b16_voc21']) == 1
    largest = set(('imgaug', 'matplotlib', 'mmdet', 'sklearn'))
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
