"""ProGrad equals the official code: both gradients, what becomes of them, the official loop, and new class names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loop_case import check_ids, check_new_names, official_loop
from official import Case, inputs
from text_prompt_case import classifier, labelled, value_of

from vlm_dense.contract.roles import CosineHead
from vlm_dense.methods.text_prompts.prograd import _SCALE


def test_every_official_number_is_reproduced(prograd_case, tmp_path):
    case = Case(prograd_case)
    config = case.config
    images, ctx = inputs(config['images']), value_of(config['params']['ctx'])
    cfg = dict(
        type='vlm_dense.ProGradPrompt',
        template=config['template'],
        from_template=bool(config['ctx_init']),
        num_contexts=config['n_ctx'],
        temperature=config['T'],
        strength=config['lambda'],
        position=config['class_token_position'],
        class_specific=config['class_specific'] and not config['ctx_init'],
    )
    model = classifier(config, tmp_path, cfg)
    prompt, tower = model.text_prompt, model.text_encoder
    if ctx is not None:
        prompt.ctx.data.copy_(ctx)
    begun = prompt.ctx.detach().clone()
    if 'mid/ctx_init' in case:
        case.check('mid/ctx_init', prompt.ctx)
    check_ids(case, prompt)
    with torch.no_grad():
        case.check('mid/text_features', F.normalize(prompt(tower), dim=-1))
        case.check('mid/teacher_text_features', prompt.reference(tower))
        features = model.image_features(images)
        case.check('mid/image_features', F.normalize(features.global_, dim=-1))
        scale = tower.logit_scale.exp()
        case.check('mid/teacher_logits', CosineHead.logits(prompt, features, prompt.reference(tower), scale))
        case.check('logits', model(images))

    def gradients(labels: list[int]) -> dict:
        """Losses, both gradients, their cosine and the one that is stepped by."""
        model.train()
        prompt.ctx.grad = None
        total, values = model.parse_losses(model(images, labelled(labels), mode='loss'))
        total.backward()
        a, b = prompt.ctx.grad.clone(), prompt.direction / _SCALE
        prompt.ctx.grad = prompt.align(prompt.ctx.grad)
        cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        return dict(loss=total, kl=values['prompt.kl'], a=a, b=b, cosine=cosine, g=prompt.ctx.grad)

    found = gradients(config['labels'])
    case.check('loss', found['loss'])
    case.check('loss/xe', found['loss'])
    case.check('loss/kl', found['kl'])
    case.check_grad('grad_xe/ctx', found['a'])
    case.check_grad('grad_kl/ctx', found['b'])
    case.check('mid/cosine', found['cosine'])
    case.check_grad('grad/ctx', found['g'])

    found = gradients(case['alt/agree/labels'].tolist())
    case.check('alt/agree/loss/xe', found['loss'])
    case.check('alt/agree/cosine', found['cosine'])
    case.check_grad('alt/agree/grad/ctx', found['g'])

    prompt.temperature, prompt.strength = config['alt_options']['T'], config['alt_options']['lambda']
    found = gradients(config['labels'])
    case.check('alt/options/loss/kl', found['kl'])
    case.check_grad('alt/options/grad_kl/ctx', found['b'])
    case.check('alt/options/cosine', found['cosine'])
    case.check_grad('alt/options/grad/ctx', found['g'])
    prompt.temperature, prompt.strength = config['T'], config['lambda']

    optimizer = torch.optim.SGD([prompt.ctx], lr=config['sgd']['lr'])
    for _ in range(config['sgd']['steps']):
        gradients(config['labels'])
        optimizer.step()
    found = gradients(config['labels'])
    case.check('after3/loss', found['loss'], rtol=1e-3)
    case.check('after3/loss_kl', found['kl'], rtol=1e-3)
    case.check('after3/ctx', prompt.ctx, rtol=1e-3)
    with torch.no_grad():
        case.check('after3/logits', model.eval()(images), rtol=1e-3)

    def step(batch, labels, prefix) -> torch.Tensor:
        nonlocal images
        images = batch
        found = gradients(labels)
        case.check(f'{prefix}loss_kl', found['kl'], rtol=1e-3)
        case.check(f'{prefix}cosine', found['cosine'], rtol=1e-3)
        return found['loss']

    prompt.ctx.data.copy_(begun)
    for _ in official_loop(case, model, [prompt.ctx], step):
        pass
    case.check('trained/ctx', prompt.ctx, rtol=1e-3)
    with torch.no_grad():
        case.check('trained/logits', model(inputs(config['test_images'])), rtol=1e-3)
    check_new_names(case, model, cfg)
    case.done()
