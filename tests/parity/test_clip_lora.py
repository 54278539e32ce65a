"""CLIP-LoRA equals the official code: updates, merging, one tower alone, dropout, the official loop, and new names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from loop_case import batches_of, check_new_names
from official import Case, array, inputs, tiny_clip
from text_prompt_case import check_training, classifier, labelled, value_of

from vlm_dense.methods.fine_tuning.clip_lora import merged

LEAVES = dict(q='q_proj', k='k_proj', v='v_proj', o='proj')
TOWERS = dict(text='transformer.', vision='visual.')


def parameter(prompt, name: str, read=lambda p: p):
    """What ``read`` gives of the parameter that the release calls ``name``."""
    part, _, leaf = name.rpartition('.')
    return read(getattr(prompt.official()[part], leaf))


def patterns(config: dict, tower: str) -> tuple[str, ...]:
    if config['encoder'] not in ('both', tower) or not config.get(f'{tower}_layers'):
        return ()
    leaves, blocks = (LEAVES[m] for m in config['target']), map(str, config[f'{tower}_layers'])
    return (rf'resblocks\.({"|".join(blocks)})\.attn\.({"|".join(leaves)})$',)


class Masked(torch.nn.Module):
    """Dropout that leaves the same channels out everywhere."""

    def __init__(self, keep: torch.Tensor, rate: float):
        super().__init__()
        self.keep, self.rate = keep, rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.keep / (1 - self.rate) if self.training else x


def test_every_official_number_is_reproduced(clip_lora_case, tmp_path):
    case = Case(clip_lora_case)
    config = case.config
    images, test = inputs(config['images']), inputs(config['test_images'])
    cfg = dict(
        type='vlm_dense.CLIPLoRAPrompt',
        templates=[config['template']],
        text_patterns=patterns(config, 'text'),
        image_patterns=patterns(config, 'vision'),
        rank=config['r'],
        alpha=config['alpha'],
        dropout=config['dropout']['rate_in_main_case'],
    )

    def model_of(**changes) -> torch.nn.Module:
        model = classifier(config, tmp_path, dict(cfg, **changes))
        for name, entry in config['params'].items():
            parameter(model.text_prompt, name).data.copy_(value_of(entry))
        return model

    model = model_of()
    prompt = model.text_prompt
    assert {f'{name}.{leaf}' for name, part in prompt.official().items() for leaf, _ in part.named_parameters()} == set(
        config['params']
    )
    begun = {name: value.clone() for name, value in prompt.state_dict().items()}
    last = {
        tower: f'{start}{"transformer." if tower == "vision" else ""}resblocks.{max(config[f"{tower}_layers"])}.attn'
        for tower, start in TOWERS.items()
        if patterns(config, tower)
    }
    with torch.no_grad():
        case.check('mid/text_features', F.normalize(prompt(model.text_encoder), dim=-1))
        case.check('mid/image_features', F.normalize(model.image_features(images).global_, dim=-1))
        case.check('logits', model(images))
        for tower, block in last.items():
            for m in config['target']:
                delta = prompt.official()[f'{block}.{LEAVES[m]}'].delta()
                case.check(f'mid/delta/{tower}/{m}', delta[::8, ::8])

        weights = merged(tiny_clip(config['clip']), prompt.official())
        plain = dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_')
        case.check('merged/logits', classifier(config, tmp_path, plain, weights)(images))
        for tower, block in last.items():
            m = config['target'][-1]
            whole = weights[f'{block}.out_proj.weight'] if m == 'o' else weights[f'{block}.in_proj_weight']
            own = whole if m == 'o' else whole.chunk(3)['qkv'.index(m)]
            case.check(f'merged/{tower}/{m}', own[::8, ::8])

        for tag, off in dict(
            zero_shot=('visual.', 'transformer.'), text_only=('visual.',), vision_only=('transformer.',)
        ).items():
            for name, part in prompt.official().items():
                part.w_lora_B.data.mul_(0 if name.startswith(off) else 1)
            if f'alt/{tag}/logits' in case:
                case.check(f'alt/{tag}/logits', model(images))
            prompt.load_state_dict(begun)

    dropout = config['dropout']
    keep = (array(*dropout['alt_mask']['array']) > -0.6745).float()
    drawn = model_of(dropout=dropout['alt_rate'])
    for part in drawn.text_prompt.official().values():
        part.dropout = Masked(keep, dropout['alt_rate'])
    drawn.train()
    with torch.no_grad():
        case.check('alt/dropout/logits', drawn(images))
    total, _ = drawn.parse_losses(drawn(images, labelled(config['labels']), mode='loss'))
    case.check('alt/dropout/loss', total)
    total.backward()
    for name in case.keys('alt/dropout/grad/'):
        case.check_grad(f'alt/dropout/grad/{name}', parameter(drawn.text_prompt, name, lambda p: p.grad))

    check_training(case, model, {'loss_ce': 1.0}, official=parameter)

    prompt.load_state_dict(begun)
    optim, batches = config['optim'], batches_of(config)
    options = dict(lr=optim['lr'], betas=optim['betas'], eps=optim['eps'], weight_decay=optim['weight_decay'])
    optimizer, count = torch.optim.AdamW(prompt.parameters(), **options), optim['total_iters']
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count, optim['eta_min'])
    model.train()
    for step in range(count):
        found, labels = batches[step % len(batches)]
        total, _ = model.parse_losses(model(found, labelled(labels), mode='loss'))
        rate = optim['eta_min'] + 0.5 * (optim['lr'] - optim['eta_min']) * (1 + math.cos(math.pi * step / count))
        assert math.isclose(rate, optimizer.param_groups[0]['lr'], rel_tol=1e-6)
        case.check(f'step/{step}/lr', rate, rtol=1e-6)
        case.check(f'step/{step}/loss', total, rtol=1e-3)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    for name in case.keys('trained/'):
        if name != 'logits':
            case.check(f'trained/{name}', parameter(prompt, name), rtol=1e-3)
    with torch.no_grad():
        case.check('trained/logits', model(test), rtol=1e-3)
    check_new_names(case, model, cfg)
    case.done()
