"""SVL-Adapter equals the official code: three rules of mixing, pseudo-labels, contrastive and triplet losses."""

from __future__ import annotations

import numpy as np
import torch
from adapter_case import accuracy, loader
from official import Case, array, inputs
from text_prompt_case import classifier, labelled
from torch import nn

from vlm_dense.classification.contrastive import nt_xent, triplet_loss
from vlm_dense.classification.pseudo_labels import choose_pseudo_labels, zero_shot_probabilities
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.registry import MODELS


@MODELS.register_module(force=True)
class KnownFeatures(nn.Module):
    """Stands for the second encoder: knows the features of the case's images, which it finds by their pixels."""

    def __init__(self, images: dict[str, torch.Tensor], features: dict[str, torch.Tensor]):
        super().__init__()
        self.num_features = next(iter(features.values())).shape[1]
        self.known = {
            image.numpy().tobytes(): row
            for name in images
            for image, row in zip(images[name], features[name], strict=True)
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.known[image.contiguous().numpy().tobytes()] for image in images])


def draw(labels: dict[str, list[int]], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """The official few shots: class by class, first of the training and then of the validation images."""
    stream, chosen = np.random.RandomState(seed), []
    for part, count in (('train', shots), ('val', min(shots, 4))):
        truth = np.array(labels[part])
        rows = []
        for label in range(truth.max() + 1):
            images = np.flatnonzero(truth == label)
            rows += stream.choice(images, min(count, len(images)), replace=False).tolist()
        chosen.append(rows)
    return tuple(chosen)


def test_every_official_number_is_reproduced(svl_adapter_case, tmp_path):
    case = Case(svl_adapter_case)
    config = case.config
    prefix, count = config['prefix'], len(config['classnames'])
    images = {part: inputs(entry) for part, entry in config['images'].items()}
    labels = {part: entry['labels'] for part, entry in config['images'].items()}
    means = array(f'{prefix}/ssl_means', (count, config['feat_dim']), config['mean_scale'])
    features = {
        part: means[labels[part]] + array(f'{prefix}/ssl_{part}', (len(images[part]), config['feat_dim']))
        for part in images
    }
    encoder = dict(type='vlm_dense.KnownFeatures', images=images, features=features)
    text_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_')
    model = classifier(
        config,
        tmp_path,
        text_prompt,
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        head=dict(
            type='vlm_dense.SVLAdapter', encoder=encoder, hidden_channels=config['hidden'], alpha=config['alpha']
        ),
    )
    test = images['test']
    with torch.no_grad():
        seen = {part: model.image_features(batch) for part, batch in images.items()}
        text, scale = model.text_side.class_embeddings(), model.text_encoder.logit_scale.exp()
    inits = {name.removeprefix('mlp.'): array(*entry) for name, entry in config['inits'].items()}

    def part_of(part: str, rows: list[int]) -> tuple[ImageFeatures, list[int]]:
        return seen[part][rows], [labels[part][row] for row in rows]

    def changed(**options) -> nn.Module:
        """The head with another rule and the weights of the one before."""
        weights = model.head.mlp.state_dict()
        cfg = dict(type='vlm_dense.SVLAdapter', encoder=encoder, hidden_channels=config['hidden'], **options)
        model.head = model.build_part(cfg, model.class_names)
        model.head.mlp.load_state_dict(weights)
        return model.eval().head

    def trained(rows: list[int], truth: list[int]) -> None:
        """Adam from the initial weights, batches in order."""
        model.head.mlp.load_state_dict(inits)
        optimizer = torch.optim.Adam(model.head.mlp.parameters(), lr=1e-3)
        model.train()
        for _ in range(config['epochs']):
            for start in range(0, len(rows), config['batch']):
                batch, known = (
                    seen['train'][rows[start : start + config['batch']]],
                    truth[start : start + config['batch']],
                )
                loss = model.parse_losses(model(batch, labelled(known), mode='loss'))[0]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()

    # the first step, three plain steps
    train_rows, val_rows = draw(labels, config['shot'], 1)
    case.check('draw/train_idx', torch.tensor(train_rows))
    case.check('draw/val_idx', torch.tensor(val_rows))
    head = model.head
    head.mlp.load_state_dict(inits)
    with torch.no_grad():
        case.check('mid/zeroshot_weights', text.T)
        case.check('mid/clip_features_test_raw', seen['test'].global_)
        clip = super(type(head), head).logits(seen['test'], text, scale)
        case.check('mid/clip_logits', clip)
        case.check('mid/adapter_logits_init', head.adapter_logits(test))
    named = dict(head.named_parameters())
    assert set(named) == set(config['inits']) == {k for k, p in head.named_parameters() if p.requires_grad}
    few, truth = part_of('train', train_rows)
    optimizer = torch.optim.SGD(named.values(), lr=config.get('lr', 0.01))
    losses = []
    model.train()
    for step in range(3):
        total, values = model.parse_losses(model(few, labelled(truth), mode='loss'))
        losses.append(total.item())
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            case.check('loss/ce', values['loss_ce'])
            for name, parameter in named.items():
                case.check_grad(f'grad/{name}', parameter.grad)
        optimizer.step()
    case.check('after3/losses', losses)
    with torch.no_grad():
        case.check('after3/loss', model.parse_losses(model(few, labelled(truth), mode='loss'))[0])
        case.check('after3/adapter_logits', head.adapter_logits(test))
    for name, parameter in named.items():
        case.check(f'after3/{name}', parameter)

    # trained, and mixed by each rule
    trained(train_rows, truth)
    with torch.no_grad():
        for name, parameter in named.items():
            case.check(f'trained/{name}', parameter)
        case.check('mid/adapter_logits', head.adapter_logits(test))
        case.check('fixed/alpha', head.alpha)
        case.check('fixed/logits', model(test))
        unlabelled = dict(unlabelled=loader(test, labels['test'], 7))
        for raw, keys in (
            (False, [f'paper/{key}_normalised' for key in ('confidence', 'alpha', 'logits')]),
            (True, [f'confidence/{key}' for key in ('clip_conf', 'alpha', 'logits')]),
        ):
            rule = changed(alpha='confidence', raw_confidence=raw)
            rule.prepare(model, unlabelled)
            for key, found in zip(keys, (1 - rule.alpha, rule.alpha, model(test)), strict=True):
                case.check(key, found)
        case.check('logits', model(test))
        few_val, truth_val = part_of('val', val_rows)
        rule = changed(alpha='search')
        case.check('tuned/val_logits', rule.adapter_logits(few_val.images))
        case.check('tuned/clip_val_logits', super(type(rule), rule).logits(few_val, text, scale))
        rule.finish(model, dict(search=loader(few_val.images, truth_val, 5)))
        case.check('tuned/alpha', rule.alpha)
        case.check('tuned/val_acc', rule.search_accuracy.max())
        case.check('tuned/val_acc', accuracy(model(few_val), truth_val))
        case.check('tuned/logits', model(test))
    table = []
    for shots, seed, _ in case['trained/all_alpha_by_shot_seed'].tolist():
        rows, rows_val = draw(labels, int(shots), int(seed))
        trained(rows, part_of('train', rows)[1])
        few_val, truth_val = part_of('val', rows_val)
        model.head.finish(model, dict(search=loader(few_val.images, truth_val, 64)))
        table.append([shots, seed, float(model.head.alpha)])
    case.check('trained/all_alpha_by_shot_seed', torch.tensor(table))

    # labels by CLIP
    probabilities = zero_shot_probabilities(classifier(config, tmp_path, text_prompt), seen['train'].global_)
    case.check('pseudo/probs', probabilities)
    rows, chosen, _ = choose_pseudo_labels(probabilities, config['per_label'], fill=True)
    order = sorted(range(len(rows)), key=lambda i: f'train/{rows[i]}')
    rows, chosen = rows[order].tolist(), chosen[order].tolist()
    case.check('pseudo/train_index', torch.tensor(rows))
    case.check('pseudo/label', torch.tensor(chosen))
    rule = changed(alpha='confidence', raw_confidence=True)
    trained(rows, chosen)
    with torch.no_grad():
        rule.prepare(model, unlabelled)
        case.check('pseudo/adapter_logits', rule.adapter_logits(test))
        case.check('pseudo/alpha', rule.alpha)
        case.check('pseudo/logits', model(test))

    # the contrastive stage
    first, second = (
        array(f'{prefix}/ssl_{side}', (config['ssl_n'], config['ssl_dim'])).requires_grad_() for side in 'ab'
    )
    loss = nt_xent(first, second, config['temperature'])
    loss.backward()
    case.check('ssl/nt_xent', loss)
    case.check_grad('ssl/grad_a', first.grad)
    case.check_grad('ssl/grad_b', second.grad)
    negatives = torch.as_tensor(case['draw/triplet_negatives'])
    for kind in ('cosine', 'l2'):
        case.check(f'ssl/triplet_{kind}', triplet_loss(first, second, negatives, config['margin'], kind))
    case.unread.discard('fp16w/logits')  # what half-precision weights would give; information only
    case.done()
