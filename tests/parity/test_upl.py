"""UPL equals the official code: pseudo-labels of one and of several CLIPs, the prompt on them, the ensemble."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from official import TINY, Case, array, inputs, tiny_clip
from text_prompt_case import IMAGE_TOWERS, check_training, classifier, set_parameters

from vlm_dense.classification import ClsDataSample, PseudoLabelDataset
from vlm_dense.classification.pseudo_labels import choose_pseudo_labels, zero_shot_probabilities
from vlm_dense.registry import DATASETS, MODELS, TRANSFORMS


@DATASETS.register_module(force=True)
class Photos(list):
    """The case's photos, by their number; what a labeller makes of them is its pipeline's business."""

    def __init__(self, count: int, names: list[str], pipeline: list):
        super().__init__(range(count))
        self.metainfo = dict(classes=tuple(names))
        self.pipeline = [TRANSFORMS.build(step) for step in pipeline]

    def full_init(self) -> None:
        pass

    def get_data_info(self, index: int) -> dict:
        return dict(number=index)

    def __getitem__(self, index: int):
        results = self.get_data_info(index)
        for step in self.pipeline:
            results = step(results)
        return results


@TRANSFORMS.register_module(force=True)
class TakeRow:
    """Pipeline step: the photo as one backbone sees it."""

    def __init__(self, entry: list):
        self.images = inputs(entry)

    def __call__(self, results: dict) -> dict:
        return dict(inputs=self.images[results['number']], data_samples=ClsDataSample())


def labeller(config: dict, kind: str, folder) -> dict:
    """Config of a zero-shot classifier around a tiny CLIP, and of its pipeline."""
    weights = str(folder / f'{kind}.pt')
    torch.save(tiny_clip(kind), weights)
    clip = dict(arch=TINY[kind], pretrained=weights)
    return dict(
        model=dict(
            type='vlm_dense.CLIPClassifier',
            data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
            backbone=dict(IMAGE_TOWERS[kind], **clip),
            text_encoder=dict(type='vlm_dense.TextTower', **clip),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=[config['template']], separators='_'),
        ),
        pipeline=[dict(type='vlm_dense.TakeRow', entry=config['images'][kind])],
    )


def test_every_official_number_is_reproduced(upl_case, tmp_path):
    case = Case(upl_case)
    config = case.config
    kinds, shots = config['pseudo_label_models'], config['shots_per_class']
    labellers = [labeller(config, kind, tmp_path) for kind in kinds]
    prompt = dict(
        type='vlm_dense.UPLPrompt',
        num_contexts=config['n_ctx'],
        position=config['class_token_position'],
        class_specific=config['class_specific'],
    )
    model = classifier(config, tmp_path, dict(prompt, num_members=1), loss=dict(type='vlm_dense.MemberCrossEntropy'))
    set_parameters(model.text_prompt.members[0], config['params'])

    # the labels, by the data set that a config names
    def pseudo(chosen: list[dict]) -> PseudoLabelDataset:
        data = dict(type='vlm_dense.Photos', count=config['n_images'], names=config['classnames'], pipeline=[])
        return PseudoLabelDataset(data, chosen, top_k=shots, cache_dir=str(tmp_path / 'features'))

    total = 0
    for kind, asked in zip(kinds, labellers, strict=True):
        zero_shot = MODELS.build(dict(asked['model'], class_names=config['classnames'])).eval()
        with torch.no_grad():
            images = inputs(config['images'][kind])
            case.check(f'zero_shot/logits_{kind}', zero_shot(images))
            probabilities = zero_shot_probabilities(zero_shot, zero_shot.image_features(images).global_)
        case.check(f'zero_shot/prob_{kind}', probabilities)
        total = total + probabilities
        if kind == kinds[0]:
            found = choose_pseudo_labels(probabilities, shots)
    case.check('zero_shot/prob_ensemble', total / len(kinds))
    for key, values in zip(('index', 'label', 'confidence'), found, strict=True):
        case.check(f'pseudo_single/{key}', values)
    single, several = pseudo(labellers[:1]), pseudo(labellers)
    for prefix, data in (('pseudo_single', single), ('pseudo', several)):
        case.check(f'{prefix}/index', torch.tensor(data.indices))
        case.check(f'{prefix}/label', data.labels)
        case.check(f'{prefix}/confidence', data.confidence)

    # the prompt
    images = inputs(config['images'][kinds[0]])
    with torch.no_grad():
        case.check('mid/text_features_normalised', F.normalize(model.text_side.class_embeddings()[0], dim=-1))
        case.check('logits', model(images))
        contexts = config['ensemble_contexts']
        several_members = classifier(config, tmp_path, dict(prompt, num_members=len(contexts)))
        for member, name in zip(several_members.text_prompt.members, contexts, strict=True):
            member.ctx.copy_(array(name, member.ctx.shape, 0.02))
        case.check('ensemble/logits', several_members(images))
        case.check('ensemble/prediction', several_members(images).argmax(1))
    batch = images[several.indices], several.labels.tolist()
    check_training(case, model, {'loss_ce': 1}, model.text_prompt.members[0], batch=batch, test_images=images)
    case.done()
