"""SubPT equals the official code: the subspace, the loss of novel names, projected gradients and steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from official import Case, array, inputs
from text_prompt_case import classifier, labelled, set_parameters, value_of, words_of

from vlm_dense.methods.text_prompts.subpt import principal_directions, project


def _trajectory(config: dict) -> torch.Tensor:
    """Points (T, N) of the case: a walk from the initial vectors."""
    steps, drift = (array(*config['arrays'][name]) for name in ('traj_step', 'traj_drift'))
    decay = torch.tensor([0.8**q for q in range(len(steps))], dtype=torch.float32)
    start = value_of(config['params']['ctx']).flatten()
    return start + (steps + decay[:, None] * drift).cumsum(dim=0)


def test_every_official_number_is_reproduced(subpt_case, tmp_path):
    case = Case(subpt_case)
    config, sgd = case.config, case.config['sgd']
    images, words = inputs(config['images']), words_of(config['params']['ctx'])
    model = classifier(
        config,
        tmp_path,
        dict(
            type='vlm_dense.SubPTPrompt',
            novel_names=config['nfl_classnames'],
            template=config['nfl_template'],
            weight=config['nfl_weight'],
            num_contexts=config['n_ctx'],
            words=words,
        ),
    )
    prompt, tower = model.text_prompt, model.text_encoder
    assert config['class_token_position'] == 'end' and not config['class_specific']
    set_parameters(prompt, config['params'])

    points = _trajectory(config)
    assert len(points) == config['t_early']
    case.check('mid/trajectory_first_row', points[0], rtol=1e-6)
    subspace, shares = principal_directions(points, config['rank'])
    official = torch.as_tensor(case['mid/U'])
    torch.testing.assert_close(subspace.T @ subspace, official.T @ official, rtol=0, atol=1e-5)
    case.check('mid/explained_variance_ratio', shares)

    with torch.no_grad():
        case.check('mid/image_features', model.image_features(images).global_)
        case.check('mid/nfl_targets', prompt.targets(tower))
        case.check('logits', model(images))

    model.train()

    def losses():
        return model.parse_losses(model(images, labelled(config['labels']), mode='loss'))

    prompt.weight = 0.0
    alone = torch.autograd.grad(losses()[0], prompt.ctx)[0]
    case.check_grad('ce_only/grad/ctx', alone)
    case.check_grad('ce_only/grad_projected/ctx', project(alone, subspace))
    prompt.weight = config['nfl_weight']

    optimizer = dict(type='SGD', lr=sgd['lr'])
    wrapper = build_optim_wrapper(model, dict(type='vlm_dense.SubspaceOptimWrapper', optimizer=optimizer))
    wrapper.subspaces = [(prompt.ctx, subspace)]
    for step in range(sgd['steps']):
        total, values = losses()
        wrapper.zero_grad()
        wrapper.backward(total)
        if step == 0:
            case.check('loss', total)
            case.check('loss/ce', values['loss_ce'])
            case.check('loss/nfl', values['prompt.loss_nfl'] / config['nfl_weight'])
            case.check_grad('grad/ctx', prompt.ctx.grad)
            case.check('mid/text_features_nfl_normalised', F.normalize(prompt.loss_embeddings, dim=-1))
        wrapper.step()
        if step == 0:
            case.check_grad('mid/grad_projected/ctx', prompt.ctx.grad)
    with torch.no_grad():
        case.check('after3/loss', losses()[0], rtol=1e-3)
        case.check('after3/ctx', prompt.ctx, rtol=1e-3)
        case.check('after3/logits', model.eval()(images), rtol=1e-3)
    case.unread.discard('mid/logits_fp16_rounded_weights')  # what half-precision weights would give; information only
    case.done()
