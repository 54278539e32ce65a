"""CALIP equals the official code: the three terms, their mixtures and the search."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import loader
from official import Case, inputs
from text_prompt_case import case_labels, classifier


def test_every_official_number_is_reproduced(calip_case, tmp_path):
    case = Case(calip_case)
    config = case.config
    points = config['grid_points']
    steps = 200
    model = classifier(
        config,
        tmp_path,
        dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates'], separators='_'),
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        head=dict(
            type='vlm_dense.CALIP', search_max=(config['beta2_max'], config['beta3_max']), search_step=(steps, steps)
        ),
    )
    head, images, labels = model.head, inputs(config['images']), case_labels(case)
    case.check('labels', labels)
    with torch.no_grad():
        text, features = model.text_side.class_embeddings(), model.image_features(images)
        case.check('text_features', text)
        case.check('mid/global', F.normalize(features.global_, dim=-1))
        case.check('mid/spatial', F.normalize(features.dense.flatten(2).transpose(1, 2), dim=-1))
        zero_shot, by_image, by_text = (100 * term for term in head.terms(features, text))
        case.check('logits_zeroshot', zero_shot)
        # official values are differences of two grid points, good to about 1e-3
        case.check('mid/logits1_visual_guided_text', by_image, rtol=1e-3)
        case.check('mid/logits2_text_guided_visual', by_text, rtol=1e-3)
        accuracy = 100 * (zero_shot.argmax(1) == torch.tensor(labels)).double().mean()
        case.check('search/zeroshot_acc', accuracy)

        head.prepare(model, dict(search=loader(images, labels, 5)))
        case.check('search/best_acc', head.search_accuracy.max())
        case.check('search/best_beta', head.betas)
        assert len(head.grid[0]) == len(head.grid[1]) == steps
        for number, (k2, k3) in enumerate(points):
            pair = head.grid[0][k2], head.grid[1][k3]
            case.check(f'calip/beta{number}', torch.tensor(pair, dtype=torch.float64))
            model.head = model.build_part(dict(type='vlm_dense.CALIP', betas=pair), model.class_names)
            case.check(f'calip/logits{number}', model(images))
            if number == 0:
                case.check('logits', model(images))
    case.done()
