"""Tip-Adapter equals the official code: cache, search and logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import accuracy, tip_adapter
from official import Case, inputs
from text_prompt_case import labelled


def test_every_official_number_is_reproduced(tip_adapter_case, tmp_path):
    case = Case(tip_adapter_case)
    config = case.config
    model, data = tip_adapter(config, tmp_path, 'vlm_dense.TipAdapter')
    head, images = model.head, inputs(config['images']['test'])
    head.prepare(model, dict(support=data['support']))
    with torch.no_grad():
        text, scale = model.text_side.class_embeddings(), model.text_encoder.logit_scale.exp()
        case.check('mid/clip_weights', text.T)
        case.check('mid/cache_keys', head.keys.T)
        case.check('mid/cache_values', head.values)
        features = model.image_features(images)
        queries = F.normalize(features.global_, dim=-1)
        case.check('mid/test_features', queries)
        case.check('mid/affinity_test', queries @ head.keys.T)
        case.check('mid/cache_logits_init', head.retrieved(queries @ head.keys.T, head.beta))
        case.check('logits', model(images))
        clip = super(type(head), head).logits(features, text, scale)
        case.check('logits/clip', clip)
        case.check('acc/clip_test', accuracy(clip, config['labels']))
        val = inputs(config['images']['val'])
        case.check('mid/val_features', F.normalize(model.image_features(val).global_, dim=-1))
        case.check('acc/init_val', accuracy(model(val), config['val_labels']))
        clip_val = super(type(head), head).logits(model.image_features(val), text, scale)
        case.check('acc/clip_val', accuracy(clip_val, config['val_labels']))

        head.prepare(model, data)
        for key, values in zip(('betas', 'alphas'), head.grid, strict=True):
            case.check(f'search/{key}', torch.tensor(values, dtype=torch.float64))
        case.check('search/val_acc', head.search_accuracy)
        case.check('search/best_beta', head.beta)
        case.check('search/best_alpha', head.alpha)
        case.check('mid/cache_logits_best', head.retrieved(queries @ head.keys.T, head.beta))
        case.check('logits/best', model(images))
        predicted = [sample.pred_label for sample in model(images, labelled(config['labels']), mode='predict')]
        right = [int(p) == label for p, label in zip(predicted, config['labels'], strict=True)]
        case.check('acc/best_test', 100 * sum(right) / len(right))

        released = {}
        for name in ('keys', 'values'):
            released[name] = str(tmp_path / f'{name}.pt')
            torch.save(torch.as_tensor(case[f'mid/cache_{name}']), released[name])
        model.head = model.build_part(
            dict(type='vlm_dense.TipAdapter', shots=head.shots, pretrained=released, beta=float(head.beta)),
            model.class_names,
        )
        case.check('mid/cache_logits_best', model.head.retrieved(queries @ model.head.keys.T, model.head.beta))
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    case.done()
