"""APE and APE-T equal the official code: channels, cache, search, training, and the channels that APE left behind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adapter_case import accuracy, loader
from official import Case, inputs
from text_prompt_case import classifier, labelled

from vlm_dense.contract.roles import CosineHead


def whole(head, values: torch.Tensor) -> torch.Tensor:
    """What the chosen channels (K, Q) have, (K, D)."""
    return torch.zeros(len(values), head.keys.shape[1]).index_copy(1, head.channels, values)


def check_channels(case: Case, model, prefix: str = '', similarity: bool = True) -> None:
    """Similarity, criterion and the channels."""
    head, text = model.head, model.text_side.class_embeddings()
    if similarity:
        case.check(f'{prefix}mid/similarity', head.similarity(text))
    case.check(f'{prefix}mid/criterion', head.criterion(text))
    case.check(f'{prefix}mid/indices', head.channels.sort().values)


class Training:
    """The official loop: AdamW, a cosine to 0 over all iterations, no shuffling."""

    def __init__(self, config: dict, model):
        entry, settings = config['train_batches'], config['settings']
        images, labels = inputs(config['images'][entry['images']]), config['images'][entry['images']]['labels']
        parts = torch.arange(len(images)).split(entry['size'])
        self.batches = [(images[part], [labels[i] for i in part]) for part in parts]
        self.model, self.epochs = model, settings['train_epoch']
        options = dict(lr=settings['lr'], eps=settings['eps'], weight_decay=config['weight_decay'])
        self.optimizer = torch.optim.AdamW(model.head.parameters(), **options)
        steps = self.epochs * len(self.batches)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.losses, self.rates = [], []

    def epoch(self) -> None:
        self.model.train()
        for images, labels in self.batches:
            total, _ = self.model.parse_losses(self.model(images, labelled(labels), mode='loss'))
            self.losses.append(total.item())
            self.rates.append(self.optimizer.param_groups[0]['lr'])
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            self.scheduler.step()
        self.model.eval()


def test_every_official_number_is_reproduced(ape_case, tmp_path):
    case = Case(ape_case)
    config, settings = case.config, case.config['settings']
    images = {name: inputs(entry) for name, entry in config['images'].items()}
    labels = {name: entry['labels'] for name, entry in config['images'].items()}
    prompt = dict(type='vlm_dense.CuPLPrompt', sentences=config['cupl'], templates=config['templates'])
    passes = [images[f'train/aug{number}'] for number in range(config['augment_epoch'])]
    data = dict(
        support=loader(passes, labels['train/aug0'], 16),
        search=loader(images['val'], labels['val'], 16),
    )

    def model_of(kind: str, channels: str, weights: str, axes: int, **options):
        head = dict(
            type=f'vlm_dense.{kind}',
            shots=config['shots'],
            passes=config['augment_epoch'],
            channels=settings[channels],
            weights=settings[weights],
            alpha=settings['init_alpha'],
            beta=settings['init_beta'],
            search_scale=settings['search_scale'][:axes],
            search_step=settings['search_step'][:axes],
            **options,
        )
        parts = dict(head=head, data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'))
        return classifier(config, tmp_path, prompt, **parts)

    def ape_t(**options):
        model = model_of('APET', 'training_feat_num', 'w_training', 2, **options)
        model.head.prepare(model, data)
        return model

    def check_search(prefix: str, head) -> None:
        case.check(f'{prefix}search/val_acc', head.search_accuracy)
        for name in head.searched:
            case.check(f'{prefix}search/best_{name}', head.get_buffer(name))

    free = dict(gamma=settings['init_gamma'])
    with torch.no_grad():
        model = model_of('APE', 'training_free_feat_num', 'w_training_free', 3, **free)
        head = model.head
        head.prepare(model, dict(support=data['support']))
        text = model.text_side.class_embeddings()
        case.check('mid/clip_weights', text.T)
        case.check('mid/cache_keys', head.keys.T)
        case.check('mid/cache_values', head.values)
        for name in ('val', 'test'):
            case.check(f'mid/{name}_features', F.normalize(model.image_features(images[name]).global_, dim=-1))
        case.check('mid/variance', text.var(dim=0))
        check_channels(case, model)
        case.check('mid/kl', head.kl)
        features, scale = model.image_features(images['test']), model.text_encoder.logit_scale.exp()
        case.check('mid/affinity_test', head.affinity(features.global_))
        case.check('logits/clip', CosineHead.logits(head, features, text, scale))
        case.check('logits', model(images['test']))
        head.search(model, data['search'])
        check_search('', head)
        case.check('logits/best', model(images['test']))

    model = ape_t()
    head, training = model.head, Training(config, model)
    with torch.no_grad():
        check_channels(case, model, 'ape_t/')
        case.check('ape_t/train_logits', model(training.batches[0][0]))
    model.train()
    total, _ = model.parse_losses(model(training.batches[0][0], labelled(training.batches[0][1]), mode='loss'))
    total.backward()
    case.check_grad('ape_t/grad/res', whole(head, head.res.grad))
    case.check_grad('ape_t/grad/value_weights', head.value_weights.grad)
    accuracies, states = [], []
    for _ in range(training.epochs):
        training.epoch()
        with torch.no_grad():
            accuracies.append(accuracy(model(images['val']), labels['val']).item())
        states.append({name: value.detach().clone() for name, value in head.named_parameters()})
    for number, loss in enumerate(training.losses, 1):
        case.check(f'ape_t/step/{number}/loss', loss)
    case.check('ape_t/lrs', torch.tensor(training.rates, dtype=torch.float64))
    case.check('ape_t/val_acc_per_epoch', torch.tensor(accuracies, dtype=torch.float64))
    best = accuracies.index(max(accuracies))
    case.check('ape_t/best_epoch', best)
    with torch.no_grad():
        case.check('ape_t/val_logits_last', model(images['val']), rtol=1e-3)
        for name, state in (('after', states[-1]), ('best', states[best])):
            case.check(f'ape_t/{name}/res', whole(head, state['res']), rtol=1e-3)
            case.check(f'ape_t/{name}/value_weights', state['value_weights'], rtol=1e-3)
        head.load_state_dict(states[best], strict=False)
        head.finish(model, data)
        check_search('ape_t/', head)
        case.check('ape_t/logits_best', model(images['test']), rtol=1e-3)

        files = dict(keys=head.keys.T.contiguous(), values=head.values, trained=states[best])
        for name, value in files.items():
            torch.save(value, tmp_path / f'{name}.pt')
        released = ape_t(pretrained={name: str(tmp_path / f'{name}.pt') for name in files})
        released.head.finish(released, data)
        torch.testing.assert_close(released(images['test']), model(images['test']))

    model = ape_t(images_count=True)
    with torch.no_grad():
        check_channels(case, model, 'alt/shared_criterion/', 'alt/shared_criterion/mid/similarity' in case)
    training = Training(config, model)
    for _ in range(training.epochs):
        training.epoch()
    for number, loss in enumerate(training.losses, 1):
        case.check(f'alt/shared_criterion/step/{number}/loss', loss)
    case.done()
