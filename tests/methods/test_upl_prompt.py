"""UPL: which images are labelled, members that do not feel each other, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from methods.test_adapters import ARCH, NAMES, build

from vlm_dense.classification import ClsDataSample, PseudoLabelDataset, UnlabelledDataset, pseudo_labels
from vlm_dense.classification.pseudo_labels import choose_pseudo_labels
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ClassNamesError, ConfigError, DataError

UPL = dict(type='vlm_dense.UPLPrompt', num_members=3, num_contexts=2)
LOSS = dict(type='vlm_dense.MemberCrossEntropy')


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_most_confident_images_of_each_predicted_class_are_kept_the_first_of_equals():
    probabilities = torch.tensor(
        [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.3, 0.4, 0.3]]
    )
    indices, labels, confidence = choose_pseudo_labels(probabilities, top_k=2)
    assert indices.tolist() == [1, 3, 4, 5] and labels.tolist() == [0, 1, 0, 1]
    assert confidence.tolist() == pytest.approx([0.8, 0.8, 0.7, 0.4])
    assert choose_pseudo_labels(probabilities, top_k=3)[0].tolist() == [0, 1, 3, 4, 5]  # not 2, as sure as 0


def test_classes_that_are_never_predicted_take_one_image_each_if_they_are_filled():
    probabilities = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.6, 0.29, 0.1, 0.01], [0.5, 0.2, 0.25, 0.05]])
    indices, labels, confidence = choose_pseudo_labels(probabilities, top_k=2, fill=True)
    # class 1 takes image 0, class 2 image 2, class 3 what is left of image 1; the former class is not refilled
    assert indices.tolist() == [0, 1, 2] and labels.tolist() == [1, 3, 2]
    assert confidence.tolist() == pytest.approx([0.3, 0.01, 0.25])
    with_fewer_images = choose_pseudo_labels(probabilities[:1], top_k=1, fill=True)
    assert with_fewer_images[0].tolist() == [0] and with_fewer_images[1].tolist() == [1]


# --- the data set -----------------------------------------------------------------------------------------------------

PIPELINE = [dict(type='vlm_dense.LoadImage'), dict(type='vlm_dense.PackClsInputs')]


def folder_of_images(folder, count: int):
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / ('inner' if number % 2 else '.')
        place.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(place / f'{number}.png'), rng.integers(0, 255, (32, 32, 3), np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return dict(type='vlm_dense.UnlabelledDataset', data_root=str(folder), classes=NAMES, pipeline=PIPELINE)


def labeller(**parts) -> dict:
    model = dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    )
    return dict(model=model | parts, pipeline=PIPELINE)


def test_a_folder_is_labelled_and_generators_stay_as_they_were(tmp_path, monkeypatch):
    data = folder_of_images(tmp_path / 'images', 12)
    said = []
    monkeypatch.setattr(pseudo_labels, 'print_log', lambda text, **_: said.append(text))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = PseudoLabelDataset(data, [labeller()], top_k=12, cache_dir=str(tmp_path / 'cache'))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == 12 and found.metainfo['classes'] == tuple(NAMES)
    for index in range(12):
        label = int(found.labels[index])
        assert int(found[index]['data_samples'].gt_label) == label == found.get_data_info(index)['gt_label']
    assert said[-1] == 'PseudoLabelDataset: 12 of 12 images are labelled.'
    assert 'classes have fewer than 12 images' in said[0]


def test_labels_that_the_data_have_are_told_and_not_used(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(pseudo_labels, 'print_log', lambda text, **_: said.append(text))
    shapes = dict(type='vlm_dense.ShapesDataset', num_scenes=9, num_objects=(1, 1), size=32)
    shapes['pipeline'] = draw = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')]
    shapes['classes'] = ['circle', 'star']
    found = PseudoLabelDataset(shapes, [dict(labeller(), pipeline=draw)], top_k=9, cache_dir=str(tmp_path))
    truth = [int(found.dataset[index]['data_samples'].gt_label) for index in found.indices]
    right = sum(a == b for a, b in zip(truth, found.labels.tolist(), strict=True))
    assert right < 9 and f'{right} of the 9 labels that the data set has agree' in said[-1]


def test_folders_without_enough_images_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    empty = dict(type='vlm_dense.UnlabelledDataset', data_root=str(tmp_path / 'empty'), classes=NAMES, pipeline=[])
    with pytest.raises(DataError, match='There is no image in .*empty: expected files ending in .jpg'):
        PseudoLabelDataset(empty, [labeller()])
    few = folder_of_images(tmp_path / 'few', 3)
    with pytest.raises(DataError, match='takes 16 images of each class, and UnlabelledDataset has 3 images in all'):
        PseudoLabelDataset(few, [labeller()], cache_dir=str(tmp_path))
    with pytest.raises(ClassNamesError, match='UnlabelledDataset names no classes'):
        PseudoLabelDataset(dict(few, classes=None), [labeller()], top_k=2, cache_dir=str(tmp_path))
    assert len(UnlabelledDataset(str(tmp_path / 'few'))) == 3


def test_labellers_that_are_trained_or_absent_are_refused(tmp_path):
    data = folder_of_images(tmp_path / 'images', 3)
    trained = labeller(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2))
    with pytest.raises(ConfigError, match='1 weights that training sets \\(text_prompt.ctx'):
        PseudoLabelDataset(data, [trained], top_k=1, cache_dir=str(tmp_path))
    for options in (dict(top_k=0), dict(labellers=[])):
        with pytest.raises(ConfigError, match='must be at least 1'):
            PseudoLabelDataset(**dict(dict(dataset=data, labellers=[labeller()]), **options))


# --- the prompt -------------------------------------------------------------------------------------------------------


def step(model, lr: float = 0.1) -> None:
    features = ImageFeatures(global_=torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
    samples = [ClsDataSample().set_label(label % 3) for label in range(5)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    model.train().parse_losses(model(features, samples, mode='loss'))[0].backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize('options', [dict(), dict(position='middle'), dict(class_specific=True)])
def test_members_are_trained_as_if_each_were_alone(options):
    together = build(text_prompt=dict(UPL, **options), loss=LOSS)
    contexts = [member.ctx.detach().clone() for member in together.text_prompt.members]
    assert not torch.equal(contexts[0], contexts[1])
    features = ImageFeatures(global_=torch.randn(5, 16))
    step(together)
    logits = []
    for member, context in zip(together.text_prompt.members, contexts, strict=True):
        model = build(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2, **options))
        model.text_prompt.ctx.data.copy_(context)
        step(model)
        torch.testing.assert_close(member.ctx, model.text_prompt.ctx)
        with torch.no_grad():
            logits.append(model(features))
    with torch.no_grad():
        torch.testing.assert_close(together(features), torch.stack(logits).mean(0))


def test_members_have_checkpoints_of_their_own(tmp_path):
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f'{number}.pth'))
        torch.save(
            dict(state_dict=dict(ctx=torch.full((2, 32), float(number)), token_prefix=torch.zeros(1))), paths[-1]
        )
    prompt = build(text_prompt=dict(UPL, pretrained=paths)).text_prompt
    assert [float(member.ctx[0, 0]) for member in prompt.members] == [0, 1, 2]
    with pytest.raises(ConfigError, match='a list with a checkpoint of each member; found 3 and'):
        build(text_prompt=dict(UPL, pretrained=paths[:2]))
    with pytest.raises(ConfigError, match='the same words stay the same'):
        build(text_prompt=dict(UPL, words='a photo of a'))


def test_a_loss_of_members_needs_members():
    with pytest.raises(ConfigError, match='the logits have no variants'):
        step(build(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2), loss=LOSS))
