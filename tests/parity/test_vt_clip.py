"""VT-CLIP equals its equations: the text that looked at the image, logits, three steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, fill, inputs
from text_prompt_case import case_labels, check_training, classifier

from vlm_dense.registry import MODELS

_PREFIX = 'vt_clip.'


def test_every_official_number_is_reproduced(vt_clip_case, tmp_path):
    case = Case(vt_clip_case)
    config = case.config
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_'),
        head=dict(
            type='vlm_dense.VTCLIP',
            num_layers=config['layers'],
            num_heads=config['heads'],
            ffn_channels=config['ffn'],
            ratio=config['residual_ratio'],
            norm_first=config.get('norm_first', False),
            dropout=config.get('dropout', 0.0),
            chunk_size=4,
        ),
    )
    head, images = model.head, inputs(config['images'])
    weights = {name.removeprefix(_PREFIX): fill(name, shape) for name, shape in config['shapes'].items()}
    head.load_state_dict(weights)
    case.check('labels', case_labels(case))
    with torch.no_grad():
        features, text = model.image_features(images), model.text_side.class_embeddings()
        positions = F.normalize(features.dense.flatten(2).transpose(1, 2), dim=-1)
        case.check('mid/text_features', text)
        case.check('mid/global', F.normalize(features.global_, dim=-1))
        case.check('mid/spatial', positions)
        each = text.expand(len(images), -1, -1)
        case.check('mid/decoder_out', head.decode(each, positions))
        case.check('mid/visual_guided_text', head.guide(each, positions))
        plain = MODELS.build(dict(type='vlm_dense.CosineHead'))
        case.check('logits_zeroshot', plain.logits(features, text, model.text_encoder.logit_scale.exp()))
        case.check('logits', model(images))

    def official(head, name, read):
        return read(head.get_parameter(name.removeprefix(_PREFIX)))

    config.setdefault('sgd', dict(lr=config.get('lr'), steps=3))
    check_training(case, model, {}, head, official=official)
    case.done()
