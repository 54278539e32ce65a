"""Zero-shot classifiers equal open_clip's and CoOp's."""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from official import TINY, Case, inputs, tiny_clip

from vlm_dense.registry import MODELS

SEVEN = (
    'itap of a {}.',
    'a bad photo of the {}.',
    'a origami {}.',
    'a photo of the large {}.',
    'a {} in a video game.',
    'art of the {}.',
    'a photo of the small {}.',
)


def test_every_official_number_is_reproduced(zero_shot_case, tmp_path):
    case = Case(zero_shot_case)
    config = case.config
    weights = tmp_path / 'clip.pt'
    torch.save(tiny_clip(config['clip']), weights)
    arch = TINY[config['clip']]
    image_type = dict(
        vit=dict(type='vlm_dense.CLIPViT', head=True), resnet=dict(type='vlm_dense.CLIPResNet', attnpool=True)
    )
    image_tower = MODELS.build(dict(image_type[config['clip']], arch=arch, pretrained=str(weights))).eval()
    text_tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=arch, pretrained=str(weights)))

    names = config['classnames']
    spaced = [n.replace('_', ' ') for n in names]
    templates = {
        'single': (names, [config['single_template']]),
        'ensemble': (names, config['templates']),
        'ensemble80': (names, open_clip.OPENAI_IMAGENET_TEMPLATES),
        'coop': (spaced, [config['coop_template']]),
        'coop_ensemble': (spaced, [*SEVEN, config['coop_template']]),
    }
    with torch.no_grad():
        raw = image_tower.encode(inputs(config['images']), ('global',)).global_
        features = F.normalize(raw, dim=-1)
        case.check('mid/image_features_raw', raw)
        case.check('mid/image_features', features)
        for key, (class_names, sentences) in templates.items():
            # open_clip's template lists hold functions
            sentences = [t('{}') if callable(t) else t for t in sentences]
            prompt = MODELS.build(
                dict(type='vlm_dense.ZeroShotPrompt', templates=sentences),
                default_args=dict(class_names=class_names, text_tower=text_tower),
            )
            classifier = prompt(text_tower).T
            case.check(f'classifier/{key}', classifier)
            logits = 100 * features @ classifier
            case.check(f'logits/{key}', logits)
            if key == 'ensemble80':
                case.check('logits', logits)
                case.check('top1', logits.argmax(dim=1))
            if key == 'single':
                case.check('mid/prompt_tokens_single', prompt.token_ids)
                case.check('mid/text_features_single_raw', text_tower.encode_tokens(prompt.token_ids))
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    case.done()
