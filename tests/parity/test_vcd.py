"""VCD equals the official code: sentences, scores, and each way to join them."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from official import Case, inputs
from text_prompt_case import classifier


def _prompt(path: str, hp: dict, **changes) -> dict:
    """The config of the prompt for the case's options; what has no effect in the official code is left out."""
    hp = {**hp, **changes}
    inclusion, clauses = hp['category_name_inclusion'], hp['apply_descriptor_modification']
    cfg = dict(type='vlm_dense.VCDPrompt', descriptors=path, clauses=clauses)
    if inclusion is None:
        return dict(cfg, inclusion=None)
    if inclusion == 'prepend':
        return dict(cfg, before=hp['before_text'], between=hp['between_text'], after=hp['after_text'])
    return (
        dict(cfg, inclusion='append', between=hp['between_text'])
        if inclusion == 'append'
        else dict(cfg, inclusion='none')
    )


def test_every_official_number_is_reproduced(vcd_case, tmp_path):
    case = Case(vcd_case)
    config, hp = case.config, case.config['hp']
    images, names = inputs(config['images']), config['classnames']
    path = tmp_path / 'descriptors.json'
    path.write_text(json.dumps(config['descriptors']), encoding='utf-8')
    label = f'{hp["label_before_text"]}{{}}{hp["label_after_text"]}'
    prompts = dict(
        label_only=dict(type='vlm_dense.ZeroShotPrompt', templates=[label], separators='_'),
        mean=_prompt(str(path), hp),
        max=dict(_prompt(str(path), hp), aggregate='max'),
        sum=dict(_prompt(str(path), hp), aggregate='sum'),
        no_modification=_prompt(str(path), hp, apply_descriptor_modification=False),
        no_name=_prompt(str(path), hp, category_name_inclusion='no name'),
    )
    expected = dict(
        mean='sentences', no_modification='sentences_no_modification', no_name='sentences_no_name'
    )  # of the config
    model = classifier(config, tmp_path, prompts['mean'])
    with torch.no_grad():
        features = model.image_features(images)
        image = F.normalize(features.global_, dim=-1)
        case.check('mid/image_features', image)
        for name, cfg in prompts.items():
            model.text_prompt = prompt = model.build_part(cfg, names)
            if name in expected:
                assert dict(zip(names, prompt.sentences, strict=True)) == config[expected[name]]
            embeddings = prompt(model.text_encoder)
            logits = model.logits(features, embeddings) / model.text_encoder.logit_scale.exp()
            case.check(f'logits/{name}', logits, rtol=1e-5)
            if name == 'label_only':
                assert config['label_prompts'] == [label.format(key.replace('_', ' ')) for key in names]
                case.check('mid/label_encodings', embeddings, rtol=1e-5)
            if name == 'mean':
                sentences = prompt.unit_sentences(model.text_encoder)
                case.check('logits', logits, rtol=1e-5)
                case.check('pred', logits.argmax(dim=1))
                case.check('probs', logits.softmax(dim=1), rtol=1e-5)
                case.check('mid/descriptor_encodings', sentences, rtol=1e-5)
                case.check('mid/descriptor_similarity', image @ sentences.T, rtol=1e-5)
                case.check('mid/descriptor_counts', prompt.owner.bincount())
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    case.done()
