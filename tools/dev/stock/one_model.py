"""A step and a prediction of one stock model, in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

MEMORY = 14  # GiB of address space for one run, unless another is asked for
KILLED = 'ended with status'  # what is told of a run that something else ended
LEFT_OUT = ('pretrained', 'teacher_ckpt', 'batch_augments')


def bare(value):
    """A config without weights to download and without padding; every detection counts, however low its score."""
    if isinstance(value, (list, tuple)):
        return type(value)(bare(item) for item in value)
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key in LEFT_OUT or (key == 'init_cfg' and isinstance(item, dict) and 'checkpoint' in item):
            item = False if isinstance(item, bool) else None
        elif key == 'score_thr' and isinstance(item, float):
            item = 0.0
        kept[key] = bare(item)
    return kept


def asks(value, key: str) -> bool:
    """Whether ``key`` is true anywhere in a config."""
    if isinstance(value, (list, tuple)):
        return any(asks(item, key) for item in value)
    return isinstance(value, dict) and (value.get(key) is True or any(asks(item, key) for item in value.values()))


def least(value, key: str, bound: int) -> int:
    """The smallest of ``bound`` and all integers under ``key`` in a config."""
    if isinstance(value, (list, tuple)):
        return min([bound, *(least(item, key, bound) for item in value)])
    if not isinstance(value, dict):
        return bound
    own = value.get(key)
    bound = min(bound, own) if isinstance(own, int) else bound
    return min([bound, *(least(item, key, bound) for item in value.values())])


def images_for_mmdet(config: dict, size: int) -> tuple[dict, dict]:
    """Inputs to train on and to predict from; masks where the config loads them, else more than most models need."""
    import numpy as np
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    model, masks = config['model'], asks(config, 'with_mask')
    classes = min(least(model, name, 10) for name in ('num_classes', 'num_things_classes', 'num_stuff_classes'))
    shape, kind = (3, size, size), model.get('data_preprocessor', {}).get('type', '')

    def still(count):
        data = demo_mm_inputs(
            count, shape, [3] * count, max(classes, 2), with_mask=masks, with_semantic=True, use_box_type=True
        )
        told = dict(homography_matrix=np.eye(3, dtype=np.float32), batch_input_shape=shape[1:], pad_shape=shape[1:])
        if 'language_model' in model:
            names = ('one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
            told.update(text=names[:classes], custom_entities=True)
        for sample, proposals in zip(data['data_samples'], demo_mm_proposals([shape] * count, 20), strict=True):
            sample.gt_instances.labels %= max(classes, 1)
            sample.ignored_instances = sample.ignored_instances[:0]
            if 'rpn_head' not in model:
                sample.proposals = proposals
            sample.set_metainfo(told)
        return data

    if 'Track' in kind:
        alone = model['data_preprocessor'].get('use_det_processor')  # only the detector is trained, on still images
        track = dict(image_shapes=shape, num_items=[3], num_classes=max(classes, 1), with_mask=True)
        return still(2) if alone else demo_track_inputs(1, 2, [0], **track), demo_track_inputs(1, 1, **track)
    if 'MultiBranch' in kind:
        branches = {name: still(2) for name in ('sup', 'unsup_teacher', 'unsup_student')}
        return {key: {name: data[key] for name, data in branches.items()} for key in branches['sup']}, still(1)
    return still(2), still(1)


def images_for_mmseg(config: dict, size: int) -> tuple[dict, dict]:
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rng = np.random.default_rng(0)
    classes = least(config['model'], 'num_classes', 10)

    def some(count):
        samples = []
        for _ in range(count):
            shape = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size))
            sample = SegDataSample(metainfo=dict(shape, scale_factor=(1.0, 1.0), flip=False, flip_direction=None))
            for name in ('gt_sem_seg', 'gt_edge_map', 'gt_depth_map'):
                most = classes if name == 'gt_sem_seg' else 2
                figures = torch.from_numpy(rng.integers(0, most, (1, size // 8, size // 8)))
                figures = figures.repeat_interleave(8, 1).repeat_interleave(8, 2)
                sample.set_data({name: PixelData(data=figures.float() if 'depth' in name else figures)})
            samples.append(sample)
        images = [torch.from_numpy(rng.integers(0, 255, (3, size, size), np.uint8)) for _ in range(count)]
        return dict(inputs=images, data_samples=samples)

    return some(2), some(1)


def seed():
    import random

    import numpy as np
    import torch

    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(0)


def figures_of(value) -> list[float]:
    """Numbers that do not depend on the order of rows: of every array its size, mean and root mean square."""
    import numpy as np
    import torch

    if hasattr(value, 'tensor'):  # boxes
        value = value.tensor
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
        return [value.size, float(value.mean()), float(np.sqrt((value**2).mean()))] if value.size else [0]
    if hasattr(value, 'all_items'):
        value = dict(value.all_items())
    if isinstance(value, dict):
        return [number for key in sorted(value, key=str) for number in figures_of(value[key])]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in figures_of(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def predictions(samples) -> list[float]:
    """What a model has added to its samples."""
    found = []
    for sample in samples:
        for inner in getattr(sample, 'video_data_samples', [sample]):
            found += [part for name, part in sorted(inner.items()) if name.startswith(('pred', 'seg_logits'))]
    return figures_of(found)


def own_size(config, fallback: int = 320) -> int:
    """The size of image that a config trains on, where it says so, up to 640."""
    size = config.get('crop_size') or config.model.get('data_preprocessor', {}).get('size') or fallback
    return min(size[0] if isinstance(size, (list, tuple)) else size, 640)


def run(package: str, path: str, size: int) -> dict:
    """Losses, gradients and predictions of a config's model.

    Args:
        package: mmdet or mmseg.
        path: The config.
        size: Sides of the images, in pixels; 0: the size of the config.
    """
    import torch
    from mmengine import Config, ConfigDict
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    MMLogger.get_instance('ops_sweep', log_level='ERROR')
    init_default_scope(package)
    for name, value in dict(iter=0, max_iters=1000, epoch=0, max_epochs=10).items():
        MessageHub.get_current_instance().update_info(name, value)  # as the runner does, for losses that warm up
    config = Config.fromfile(path)
    if 'model' not in config:
        raise ValueError('this config has no model')
    size = size or own_size(config)
    settings = ConfigDict(bare(config.model.to_dict()))
    if settings.get('data_preprocessor', {}).get('size'):
        settings.data_preprocessor.size = (size, size)  # to which mmseg pads
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)  # MMSyncBN
    seed()
    model = revert_sync_batchnorm(MODELS.build(settings))
    model.init_weights()
    to_train, to_test = (images_for_mmdet if package == 'mmdet' else images_for_mmseg)(config.to_dict(), size)
    found, failed = {}, []
    try:
        seed()
        model.train()  # some models return nothing here
        losses = model(**model.data_preprocessor(to_train, True), mode='loss')
        loss, parts = model.parse_losses(losses)
        loss.backward()
        found['losses'] = figures_of({name: value.detach() for name, value in parts.items()})
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        found['gradients'] = [float(torch.stack(norms).norm())]
    except Exception:
        failed.append(('train', traceback.format_exc()))
    try:
        seed()
        model.eval()
        with torch.no_grad():
            found['predictions'] = predictions(model.test_step(to_test))
    except Exception:
        failed.append(('predict', traceback.format_exc()))
    return dict(figures=found, size=size, failed=failed)


def text_model(folder: Path) -> None:
    """A small BERT with random weights, as a folder that ``from_pretrained`` reads; it spells every word."""
    import torch
    from transformers import BertConfig, BertModel

    letters = [chr(i) for i in range(ord('a'), ord('z') + 1)]
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters, *(f'##{letter}' for letter in letters)]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), num_hidden_layers=1, intermediate_size=768)
    BertModel(config).save_pretrained(folder)
    (folder / 'vocab.txt').write_text('\n'.join(tokens))
    (folder / 'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='BertTokenizer', do_lower_case=True)))


def worker(package: str, limit: float, memory: float) -> None:
    """Read lines of JSON, a path and a size each, and answer with what :func:`run` finds, or how it failed."""
    import importlib.util

    from vlm_dense.ops import is_stand_in

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever is printed elsewhere is no answer
    warnings.simplefilter('ignore')
    kernels = 'stand-in' if is_stand_in() else 'compiled'
    for part in ('models', 'datasets', 'evaluation', 'structures', 'testing'):
        importlib.import_module(f'{package}.{part}') if part != 'testing' or package == 'mmdet' else None
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # teachers and text models are named from here
        Path('configs').symlink_to(Path(sys.modules[package].__file__).parent / '.mim' / 'configs')
        if package == 'mmdet' and importlib.util.find_spec('transformers'):
            text_model(Path('bert-base-uncased'))
        print(json.dumps(dict(kernels=kernels, torch=torch.__version__)), file=answers, flush=True)
        for line in sys.stdin:
            path, size = json.loads(line)
            result = forked(lambda path=path, size=size: run(package, path, size), limit, memory)
            print(json.dumps(result), file=answers, flush=True)


def forked(function, limit: float, memory: float = MEMORY) -> dict:
    """What a function gives in a child process, or what went wrong there.

    Args:
        function: Without arguments.
        limit: Seconds of the processor; ten times as long by the clock, for a machine that others use too.
        memory: GiB of address space.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (int(memory * 2**30),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
        try:
            result = function()
        except BaseException:
            result = dict(figures={}, failed=[('build', traceback.format_exc())])
        with os.fdopen(writer, 'wb') as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    end, content = time.time() + 10 * limit, b''
    with os.fdopen(reader, 'rb', 0) as pipe:
        while (left := end - time.time()) > 0 and select.select([pipe], [], [], left)[0]:
            if not (chunk := pipe.read(1 << 16)):
                break
            content += chunk
        else:
            os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    seconds = round(used.ru_utime + used.ru_stime, 1)
    if content and not status:
        return dict(pickle.loads(content), seconds=seconds)  # our own child wrote it
    why = f'Stopped: more than {limit:.0f} s' if seconds > limit - 2 else f'Stopped: {KILLED} {status}'
    return dict(figures={}, failed=[('run', why)], seconds=seconds)
