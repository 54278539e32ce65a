"""LP++ equals the official code: beginning, rates, every step, the best one, and alpha with a fresh gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import Case, array, inputs
from text_prompt_case import classifier

from vlm_dense.methods.adapters.lp_plus_plus import rates, scores


def test_every_official_number_is_reproduced(lp_plus_plus_case, tmp_path):
    case = Case(lp_plus_plus_case)
    config = case.config
    images = {name: inputs(entry) for name, entry in config['images'].items()}
    labels = {name: torch.tensor(entry['labels']) for name, entry in config['images'].items()}
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates'], separators='_')

    def model_of(**options) -> torch.nn.Module:
        every = dict(epochs=config['train_epoch'], alpha_every=config['alpha_every'], momentum=config['momentum'])
        head = dict(type='vlm_dense.LPPlusPlus', **every, **options)
        return classifier(config, tmp_path, prompt, head=head)

    model = model_of()
    with torch.no_grad():
        text = model.text_side.class_embeddings()
        unit = {name: F.normalize(model.image_features(found).global_, dim=-1) for name, found in images.items()}
    case.check('mid/text_weights', text.T)
    for name, features in unit.items():
        case.check(f'mid/{name}_features', features)
    case.check('mid/lr_w', rates(unit['train'], text)[0])
    case.check('mid/lr_alpha', rates(unit['train'], text)[1])
    train = unit['train'], labels['train'], text

    def begin(head) -> None:
        head.begin(*train)
        head.bias.copy_(array(*config['inits']['classifier.bias']))

    head = model.head
    begin(head)
    case.check('init/classifier.weight', head.weight)
    case.check('init/alpha', head.alpha[None])
    begun = {name: value.clone().requires_grad_() for name, value in head.named_buffers()}
    logits = scores(unit['train'], text, **begun)
    case.check('train_logits', logits)
    F.cross_entropy(logits, labels['train']).backward()
    for name in ('weight', 'bias'):
        case.check_grad(f'grad/classifier.{name}', begun[name].grad)
    case.check_grad('grad/alpha', begun['alpha'].grad[None])

    def descended(head, prefix: str) -> None:
        """Whatever the case holds of single steps, and the end."""
        for step, loss in enumerate(head.descend(*train), 1):
            for name, value in dict(loss=loss, alpha=head.alpha[None]).items():
                if f'{prefix}step/{step}/{name}' in case:
                    case.check(f'{prefix}step/{step}/{name}', value, rtol=1e-3)
        for name, value in dict(weight=head.weight, bias=head.bias).items():
            if f'{prefix}after/classifier.{name}' in case:
                case.check(f'{prefix}after/classifier.{name}', value, rtol=1e-3)
        case.check(f'{prefix}after/alpha', head.alpha[None], rtol=1e-3)
        case.check(f'{prefix}logits_last', scores(unit['test'], text, *head.buffers()), rtol=1e-3)

    descended(head, '')
    begin(head)
    head.fit(*train, (unit['val'], labels['val']))
    case.check('val_acc', torch.tensor(head.accuracies, dtype=torch.float64))
    case.check('best_epoch', head.best_epoch)
    with torch.no_grad():
        case.check('logits', model(images['test']), rtol=1e-3)

    model = model_of(fresh_gradient=True)
    begin(model.head)
    descended(model.head, 'alt/alpha_grad_reset/')
    case.done()
