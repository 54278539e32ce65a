"""GDA-CLIP equals the official code: few shots, base classes without ridge, and new classes without images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import loader
from official import Case, inputs
from text_prompt_case import classifier

from vlm_dense.contract.preparation import read_passes
from vlm_dense.contract.roles import CosineHead
from vlm_dense.methods.adapters.gda_clip import covariance


def check_fit(case: Case, prefix: str, head, precision: torch.Tensor, end: str = '', rtol: float = 1e-4) -> None:
    """Precision, W and b."""
    case.check(f'{prefix}mid/precision{end}', precision, rtol)
    case.check(f'{prefix}mid/W{end}', head.weight.T, rtol)
    case.check(f'{prefix}mid/b{end}', head.bias, rtol)


@torch.no_grad()
def test_every_official_number_is_reproduced(gda_clip_case, tmp_path):
    case = Case(gda_clip_case)
    config, base = case.config, case.config['base2new']
    images = {name: inputs(entry) for name, entry in config['images'].items()}
    labels = {name: entry['labels'] for name, entry in config['images'].items()}
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates'], separators='_')

    def model_of(names: list[str], **head) -> torch.nn.Module:
        parts = dict(head=head, data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'))
        return classifier(dict(config, classnames=names), tmp_path, prompt, **parts)

    def support(name: str, passes: int):
        return loader([images[f'{name}/aug{number}'] for number in range(passes)], labels[f'{name}/aug0'], 16)

    def vectors_of(model, data) -> tuple[torch.Tensor, torch.Tensor]:
        features, truth = zip(*read_passes(model, data, model.head.passes), strict=True)
        return F.normalize(torch.cat(features), dim=-1), torch.cat(truth)

    def means_of(vectors, truth) -> torch.Tensor:
        return torch.stack([vectors[truth == label].mean(0) for label in range(len(config['classnames']))])

    search = loader(images['val'], labels['val'], 16)
    options = dict(type='vlm_dense.GDACLIP', alphas=config['alphas'])
    model = model_of(config['classnames'], passes=config['augment_epoch'], **options)
    head, few = model.head, support('train', config['augment_epoch'])
    head.prepare(model, dict(support=few, search=search))
    case.check('mid/clip_weights', model.text_side.class_embeddings().T)
    for name in ('val', 'test'):
        case.check(f'mid/{name}_features', F.normalize(model.image_features(images[name]).global_, dim=-1))
    vectors, truth = vectors_of(model, few)
    means = means_of(vectors, truth)
    case.check('mid/mus', means)
    case.check('mid/cov', covariance(vectors - means[truth]))
    check_fit(case, '', head, head.precision(vectors, truth, means))
    case.check('search/val_acc', head.search_accuracy)
    case.check('search/best_alpha', head.alpha)
    features, scale = model.image_features(images['test']), model.text_encoder.logit_scale.exp()
    case.check('logits/clip', CosineHead.logits(head, features, model.text_side.class_embeddings(), scale))
    case.check('logits/gda', head.discriminant(features.global_))
    case.check('logits', model(images['test']))

    model = model_of(config['classnames'], passes=base['augment_epoch'], ridge=False, **options)
    head, many = model.head, support('base', base['augment_epoch'])
    head.prepare(model, dict(support=many, search=search))
    vectors, truth = vectors_of(model, many)
    check_fit(case, 'base2new/', head, head.precision(vectors, truth, means_of(vectors, truth)), rtol=1e-3)
    case.check('base2new/search/val_acc', head.search_accuracy)
    case.check('base2new/search/best_alpha', head.alpha)
    case.check('base2new/logits_base', model(images['test']), rtol=1e-3)

    unseen = model_of(
        base['new_classnames'],
        type='vlm_dense.GDACLIPUnseen',
        alpha=float(head.alpha),
        passes=base['augment_epoch'],
        neighbours=base['k'],
        copies=base['repeat'],
    )
    unseen.head.prepare(unseen, dict(support=many))
    text = unseen.text_side.class_embeddings()
    case.check('base2new/mid/clip_weights_new', text.T)
    case.check('base2new/mid/neighbours', unseen.head.nearest(text, vectors).sort(dim=1).values)
    means, precision = unseen.head.describe(text, vectors)
    case.check('base2new/mid/mus_new', means)
    check_fit(case, 'base2new/', unseen.head, precision, '_new')
    case.check('base2new/logits_new', unseen(images['test_new']))
    case.done()
