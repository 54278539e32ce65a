"""CuPL equals the official code: generated sentences, hand-written ones, and both together."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import classifier


def test_every_official_number_is_reproduced(cupl_case, tmp_path):
    case = Case(cupl_case)
    config = case.config
    images = inputs(config['images'])
    (tmp_path / 'prompts.json').write_text(json.dumps(config['prompts']), encoding='utf-8')
    generated = dict(type='vlm_dense.CuPLPrompt', sentences=str(tmp_path / 'prompts.json'))
    prompts = dict(
        cupl=generated,
        base=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
        both=dict(generated, templates=config['templates']),
    )
    model = classifier(config, tmp_path, prompts['cupl'])
    with torch.no_grad():
        features = model.image_features(images)
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        for name, cfg in prompts.items():
            model.text_prompt = prompt = model.build_part(cfg, config['classnames'])
            embeddings = prompt(model.text_encoder)
            case.check(f'classifier/{name}', embeddings.T, rtol=1e-5)
            logits = model.logits(features, embeddings) * config['logits_scale'] / model.text_encoder.logit_scale.exp()
            case.check(f'logits/{name}', logits, rtol=1e-5)
            if name == 'cupl':
                case.check('logits', logits, rtol=1e-5)
                case.check('pred/cupl', logits.argmax(dim=1))
                if 'mid/tokens_long_class' in case:
                    long = next(key for key, texts in config['prompts'].items() if max(map(len, texts)) > 200)
                    ids = prompt.token_ids[prompt.owner == config['classnames'].index(long)]
                    case.check('mid/tokens_long_class', ids)
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    case.done()
