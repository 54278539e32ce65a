"""What the cases of MaskCLIP's successors have in common: their model, their images, and the checks of each case."""

from __future__ import annotations

import copy

import torch
from mmseg.structures import SegDataSample
from official import TINY, Case, array, fill
from torch import Tensor

from vlm_dense.clip.image_tower import resize_positions
from vlm_dense.clip.last_blocks import LastBlocks
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.steps import ClassMaps, Probabilities
from vlm_dense.segmentation.window_maps import WindowMaps

_VISION = dict(image_size='image_size', patch_size='patch_size', vision_width='width', vision_layers='layers')
_TEXT = dict(context_length='context_length', vocab_size='vocab_size', text_width='width', text_layers='layers')


def arch_of(config: dict) -> dict:
    """open_clip config of the case's CLIP."""
    arch, own = copy.deepcopy(TINY['vit']), config.get('vision', {})
    arch['quick_gelu'] = config.get('quick_gelu', True)
    arch['embed_dim'] = own.get('embed_dim', arch['embed_dim'])
    for names, part in ((_VISION, 'vision_cfg'), (_TEXT, 'text_cfg')):
        arch[part].update({ours: own[theirs] for theirs, ours in names.items() if theirs in own})
    arch['text_cfg']['heads'] = arch['text_cfg']['width'] // 64
    return arch


def names_of(config: dict) -> list[list[str]]:
    """The names of each class."""
    separator = config.get('separator', ', ')
    return [line.split(separator) for line in config['classnames']]


def build(config: dict, backbone: dict | None = None) -> MaskCLIP:
    """MaskCLIP on the weights of the official run, for :func:`variant` to give it a part; it encodes the names once.

    Args:
        config: Of the case.
        backbone: Further options of the tower.
    """
    arch = arch_of(config)
    tower = dict(type='vlm_dense.CLIPViT', arch=arch, head=True, pos_mode='bicubic_scaled', remainder='drop')
    built: MaskCLIP = MODELS.build(
        dict(
            type='vlm_dense.MaskCLIP',
            class_names=names_of(config),
            backbone=tower | (backbone or {}),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            test_cfg=dict(mode='whole'),
        )
    )
    weights = {}
    for key, value in built.state_dict().items():
        source = key.replace('backbone.', 'visual.').removeprefix('decode_head.text_encoder.')
        weights[key] = fill(source, tuple(value.shape))
    built.load_state_dict(weights)
    embeddings = built.decode_head.embed_classes()
    built.decode_head.embed_classes = lambda *_: embeddings
    return built.eval()


def variant(
    model: MaskCLIP, attention: dict, test_cfg: dict | None = None, postprocess: list[dict] | None = None
) -> MaskCLIP:
    """The model with another part, other windows and other steps; all weights are shared."""
    tower, other = copy.copy(model.backbone), copy.copy(model)
    for module in (tower, other):
        module._modules = module._modules.copy()
    depth = len(tower.transformer.resblocks)
    tower.dense_attention = tower._build_dense(attention, depth)
    other.backbone, other.test_cfg = tower, test_cfg or dict(mode='whole')
    other.postprocess = PostProcess(steps_of({}) if postprocess is None else postprocess)
    return other


def steps_of(options: dict, at_once: bool = True, sum_to_one: bool = False, pamr: dict | None = None) -> list[dict]:
    """Steps of the official options.

    Args:
        options: Of the case.
        at_once: Whether an image in one piece goes to its original size at once.
        sum_to_one: Whether scores are divided by their sum.
        pamr: Official options of the refinement.
    """
    steps = [dict(type='vlm_dense.OriginalSize', at_once=at_once)]
    if pamr is not None:
        dilations = pamr['dilations' if 'dilations' in pamr else 'stride']
        steps.append(dict(type='vlm_dense.PAMR', iterations=pamr['steps'], dilations=dilations))
    steps.append(dict(type='vlm_dense.Probabilities', scale=options.get('logit_scale', 40.0)))
    steps.append(dict(type='vlm_dense.Aliases'))
    if options.get('area_thd') is not None:
        steps.append(dict(type='vlm_dense.AreaThreshold', thresh=options['area_thd']))
    if options.get('prob_thd'):
        steps.append(dict(type='vlm_dense.ProbabilityThreshold', thresh=options['prob_thd']))
    return [*steps, dict(type='vlm_dense.SumToOne')] if sum_to_one else steps


def image_of(entry: list | dict) -> Tensor:
    """Images (B, 3, H, W) of a config entry: an array, or blocks of ``base`` and ``noise``, clamped to ``clip``."""
    if isinstance(entry, list):
        return array(*(entry[1:] if entry[0] == 'array' else entry))
    noise, block = image_of(entry['noise']), entry['block']
    base = image_of(entry['base']).repeat_interleave(block, 2).repeat_interleave(block, 3)
    image = base[:, :, : noise.shape[2], : noise.shape[3]] + noise
    return image.clamp(*entry['clip']) if 'clip' in entry else image


def pair(value) -> tuple[int, int]:
    """(h, w) of an entry that may be one number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def windows(entry: dict, **more) -> dict:
    """test_cfg of a case."""
    crop = entry.get('slide_crop', 0)
    if entry.get('mode', 'slide' if crop else 'whole') == 'whole':
        return dict(mode='whole')
    return dict(mode='slide', crop_size=pair(crop), stride=pair(entry['slide_stride']), **more)


def last_blocks(model: MaskCLIP, images: Tensor) -> LastBlocks:
    """What the tower hands to the part."""
    seen: list[LastBlocks] = []
    hook = model.backbone.dense_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.window_map(images)
    hook.remove()
    return seen[0]


def name_maps(model: MaskCLIP, images: Tensor, ori_shape=None) -> Tensor:
    """Cosines (B, N, H, W) of all names in original size, refined if the model does it."""
    meta = {} if ori_shape is None else dict(ori_shape=tuple(ori_shape))
    steps = model.postprocess.steps
    first = PostProcess(steps[: [type(step) for step in steps].index(Probabilities)])
    found = [first.scores(maps, images[i], meta, model.class_maps) for i, maps in model.window_maps(list(images))]
    return torch.cat([one.values for one in found])


def decide(model: MaskCLIP, images: Tensor, ori_shape=None) -> tuple[Tensor, Tensor]:
    """Scores (B, K, H, W) and labels (B, H, W) by the way of a test."""
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=tuple(ori_shape or size))
    samples = model.predict(images, [SegDataSample(metainfo=meta) for _ in images])
    return torch.stack([s.seg_logits.data for s in samples]), torch.stack([s.pred_sem_seg.data[0] for s in samples])


def check_tower(case: Case, name: str, model: MaskCLIP, images: Tensor, class_token: bool = True) -> None:
    """CASE/mid/pos, last_input, attn, attn_out, tokens, features of a part with one block."""
    step, part = case.config['channel_step'], model.backbone.dense_attention
    last = last_blocks(model, images)
    block = last.blocks[-1]
    q, k, v = block.attn.qkv(block.ln_1(last.tokens))
    weights = part.weights(block.attn, q, k, v, last)
    tokens = part.all_tokens(last)
    features = last.project(tokens)
    table = model.backbone.positional_embedding
    found = {
        'pos': resize_positions(table, last.grid, model.backbone.pos_mode)[:, ::step],
        'last_input': last.tokens[..., ::step],
        'attn': weights.flatten(0, 1),
        'attn_out': block.attn.output(weights @ v)[..., ::step],
        'tokens': tokens[..., ::step],
        'features': (features if class_token else features[:, last.patches])[..., ::step],
    }
    for key, value in found.items():
        if f'{name}/mid/{key}' in case:
            case.check(f'{name}/mid/{key}', value)


def check_decision(case: Case, batch: bool = False, **more) -> None:
    """post/ID: the final steps on drawn maps."""
    for name, entry in case.config['post'].items():
        maps = image_of(entry['logits'])
        if 'query_shift' in entry:
            maps = maps + torch.tensor(entry['query_shift'])[:, None, None]
        steps = PostProcess(steps_of(entry, **more))
        owners = torch.tensor(entry['query_idx'])
        classes = tuple(('name',) * int((owners == k).sum()) for k in range(int(owners.max()) + 1))
        found = []
        for drawn in maps:
            one = WindowMaps()
            one.add((0, drawn.shape[1], 0, drawn.shape[2]), drawn)
            found.append(steps.scores(one, drawn, {}, lambda values: ClassMaps(values, classes=classes)))  # noqa: B023
        scores, labels = torch.cat([one.values for one in found]), torch.cat([one.decided for one in found])
        case.check(f'post/{name}/probs', scores if batch else scores[0])
        case.check(f'post/{name}/pred', labels if batch else labels[0])


def check_pamr(case: Case) -> None:
    """pamr/ID: the refinement alone."""
    for name, entry in case.config['pamr'].items():
        refine = PAMR(entry['steps'], entry['dilations'])
        images, masks, step = image_of(entry['image']), image_of(entry['mask']), entry['step']
        found = torch.stack([refine.on(image)(mask) for image, mask in zip(images, masks, strict=True)])
        case.check(f'pamr/{name}', found[:, :, ::step, ::step])
