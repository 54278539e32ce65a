"""TaI-DPT equals the official code: captions and images, three losses, the labels found in captions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import classifier, set_parameters

from vlm_dense.classification import ClsDataSample
from vlm_dense.classification.captions import ClassFinder, PackCaption
from vlm_dense.registry import MODELS


def captions_of(config: dict) -> tuple[torch.Tensor, list[ClsDataSample]]:
    """Token ids and samples of the case's captions, as a data set packs them."""
    pack, count = PackCaption(), len(config['classnames'])
    packed = [
        pack(dict(caption=caption, gt_labels=np.flatnonzero(row), num_classes=count))
        for caption, row in zip(config['captions'], config['labels'], strict=True)
    ]
    return torch.stack([one['inputs'] for one in packed]), [one['data_samples'] for one in packed]


def test_every_official_number_is_reproduced(tai_dpt_case, tmp_path):
    case = Case(tai_dpt_case)
    config = case.config
    model = classifier(
        config,
        tmp_path,
        dict(
            type='vlm_dense.TaIDPTPrompt',
            num_contexts=config['n_ctx'],
            class_specific=config['csc'],
            spatial_scales=(config['spatial_scale_text'], config['spatial_scale_image']),
            learn_scale=config['learn_scale'],
            learn_spatial_scale=config['learn_spatial_scale'],
        ),
        loss=dict(type='vlm_dense.RankingLoss'),
    )
    prompt, images = model.text_prompt, inputs(config['images_eval'])
    set_parameters(prompt, {k: v for k, v in config['params'].items() if 'array' in v})
    constants = {k: v['constant'] for k, v in config['params'].items() if 'constant' in v}
    trained = {'ctx': prompt.whole.ctx, 'ctx_double': prompt.parts.ctx}
    for name, value in constants.items():
        parameter = getattr(prompt, name, None)
        if parameter is not None:
            parameter.data.fill_(value)
            trained[name] = parameter
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    ids, samples = captions_of(config)
    case.check('tokens', ids)

    with torch.no_grad():
        tokens = F.normalize(model.text_encoder.token_features(ids), dim=-1)
        case.check('mid/caption_token_features', tokens[:, :20].transpose(0, 1))
        text = prompt.classifier_weights(model.text_side.class_embeddings())
        for key, rows in zip(('global', 'local'), text, strict=True):
            case.check(f'mid/text_features_{key}', rows)
        for kind, batch in (('caption', ids), ('image', images)):
            features, _ = model.text_side.encode(model.backbone, batch, prompt.features)
            scores = prompt.logits(features, text[None], torch.tensor(1.0))
            for key, found in zip(('global', 'local'), scores.unbind(1), strict=True):
                case.check(f'logits_{kind}_{key}', found)
        case.check('mid/image_similarity_local', prompt.similarity(features, text[1]).transpose(0, 1))
        case.check('logits_image_merged', model(images))
        case.check('logits', model(images))
        for key, kind in (('asl', 'GrainAsymmetricLoss'), ('sigmoid', 'GrainSigmoidLoss')):
            ranking, model.loss_function = model.loss_function, MODELS.build(dict(type=f'vlm_dense.{kind}'))
            case.check(f'loss_alt/{key}', model.parse_losses(model(ids, samples, mode='loss'))[0])
            model.loss_function = ranking

    optimizer = torch.optim.SGD(trained.values(), lr=config['sgd']['lr'])
    model.train()
    for step in range(config['sgd']['steps']):
        total, values = model.parse_losses(model(ids, samples, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            for key in ('global', 'local'):
                case.check(f'loss/{key}_ranking', values[f'loss_{key}'])
            for name in case.keys('grad/'):
                case.check_grad(f'grad/{name}', trained[name].grad if name in trained else torch.zeros(()))
        optimizer.step()
    with torch.no_grad():
        case.check('after3/loss', model.parse_losses(model(ids, samples, mode='loss'))[0], rtol=1e-3)
        model.eval()
        case.check('after3/logits', model(images), rtol=1e-3)
        for name in set(case.keys('after3/')) - {'loss', 'logits'}:
            case.check(f'after3/{name}', trained[name] if name in trained else torch.tensor(constants[name]), rtol=1e-3)

    finder = ClassFinder(config['filter']['synonyms'])
    found = torch.zeros(len(config['filter']['lemmatised_captions']), len(config['classnames']), dtype=torch.int64)
    for row, sentence in zip(found, config['filter']['lemmatised_captions'], strict=True):
        row[finder.match(sentence)] = 1
    case.check('filter/labels', found)
    case.done()
