"""CLIP-Adapter equals the official code, and both branches the paper's equations."""

from __future__ import annotations

import torch
from adapter_case import check_steps
from official import Case, array, inputs
from text_prompt_case import classifier


def test_every_official_number_is_reproduced(clip_adapter_case, tmp_path):
    case = Case(clip_adapter_case)
    config = case.config
    images = inputs(config['images'])
    sizes = dict(ratio=config['ratio'], reduction=config['reduction'])

    def block(name: str) -> dict:
        """An adapter's config with the official matrices, by way of a released file."""
        weights = {k: array(*v) for k, v in config['inits'].items() if k.startswith(f'{name}.')}
        path = tmp_path / f'{name}.pth'
        torch.save(dict(state_dict={k.removeprefix(f'{name}.'): v for k, v in weights.items()}, epoch=1), path)
        return dict(sizes, pretrained=str(path))

    plain = dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_')
    text = dict(type='vlm_dense.CLIPTextAdapter', templates=[config['template']], **block('text_adapter'))
    visual = dict(type='vlm_dense.CLIPAdapter', **block('adapter'))
    model = classifier(config, tmp_path, plain, head=dict(visual, last_relu=False))

    def change(**parts) -> None:
        for role, part in parts.items():
            setattr(model, role, model.build_part(part, model.class_names))
        model.train().eval()  # forgets the class embeddings

    with torch.no_grad():
        case.check('paper/logits_no_last_relu', model(images))
        change(text_prompt=text, head=visual)
        case.check('paper/logits_both_adapters', model(images))
        case.check('mid/text_features', model.text_prompt.sentences(model.text_encoder).mean(1))
        change(head=dict(type='vlm_dense.CosineHead'))
        case.check('paper/logits_text_adapter', model(images))
        change(text_prompt=plain, head=visual)
        features = model.image_features(images).global_
        case.check('mid/image_features', features)
        case.check('mid/adapter_out', model.head.fc(features))
        case.check('mid/mixed_features', model.head(features))
        case.check('logits', model(images))
    named = {f'adapter.{name}': parameter for name, parameter in model.head.named_parameters()}
    check_steps(case, model, images, config['labels'], named)
    with torch.no_grad():
        case.check('after3/logits', model(images))
    case.done()
