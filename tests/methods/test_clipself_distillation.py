"""CLIPSelf: regions and crops, what is trained, any ViT, and the tower that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from tiny_towers import resnet, vit

from vlm_dense.cli import train as train_tool
from vlm_dense.clip.loading import load_clip, read_state_dict
from vlm_dense.datasets import ShapesDataset
from vlm_dense.detection import CocoDataset
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.methods.distillation import clipself
from vlm_dense.methods.distillation.clipself import box_features, mask_features
from vlm_dense.methods.distillation.mixed_tower import MixedTowerHook, mixed, whole_clip
from vlm_dense.methods.distillation.region_accuracy import RegionAccuracy
from vlm_dense.methods.distillation.views import GridBoxes, PackRegions, ProposalBoxes, grid_boxes
from vlm_dense.registry import MODELS

ROOT = Path(__file__).parents[2]
SMALL = [
    *('train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2'),
    *('train_dataloader.batch_size=2', 'train_dataloader.dataset.size=64', 'train_dataloader.dataset.num_scenes=4'),
    'test_dataloader.dataset.num_scenes=2',
    *('train_dataloader.dataset.pipeline.2.image_size=64', 'train_dataloader.dataset.pipeline.1.max_boxes=3'),
]


def build(**options):
    backbone = dict(type='vlm_dense.CLIPViT', arch=vit()) | options.pop('backbone', {})
    return MODELS.build(dict(type='vlm_dense.CLIPSelf', backbone=backbone, **options))


def samples(count: int = 2, regions: int = 3, side: int = 32) -> list[BaseDataElement]:
    boxes = torch.tensor([[0.0, 0, 32, 32], [3, 5, 20, 30], [16, 8, 32, 16]])[:regions]
    return [BaseDataElement(boxes=boxes, crops=torch.randn(regions, 3, side, side)) for _ in range(count)]


def drawn(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)


# --- data -----------------------------------------------------------------------------------------------------


def test_the_boxes_of_a_grid_fill_the_image_row_by_row():
    boxes = grid_boxes((2, 3), 30, 10)
    assert boxes.tolist()[:2] == [[0, 0, 10, 5], [10, 0, 20, 5]] and boxes.tolist()[-1] == [20, 5, 30, 10]
    found = GridBoxes(max_boxes=4, crop_scale=1.5)(dict(img=drawn()))
    assert len(found['regions']) <= 4
    whole = (found['regions'] == found['crops']).all(axis=0)
    assert not whole.all() and found['crops'].min() >= 0 and (found['crops'][:, 2:] <= [60, 40]).all()


def test_regions_are_drawn_from_the_generator_of_torch():
    def regions():
        torch.manual_seed(3)
        return [GridBoxes()(dict(img=drawn()))['regions'].tolist() for _ in range(3)]

    first = regions()
    assert first == regions() and first[0] != first[1] != first[2]


def test_an_image_with_fewer_pixels_than_cells_is_refused():
    small = dict(img=drawn(2, 3), img_path='small.png')
    with pytest.raises(DataError, match=r'small\.png has 3 x 2 px, fewer than .* max_split'):
        for _ in range(50):
            GridBoxes()(small)
    thin = dict(img=drawn(), regions=np.array([[3, 3, 3.2, 9]]), crops=np.array([[3, 3, 3.2, 9]]))
    with pytest.raises(DataError, match='holds no pixel'):
        PackRegions(32)(thin)


def test_proposals_of_a_wrong_size_are_left_out_and_crops_are_larger():
    boxes = np.array([[0, 0, 5, 5], [10, 10, 30, 30], [40, 0, 60, 40]], np.float32)
    found = ProposalBoxes(min_size=8, max_size=25)(dict(img=drawn(), gt_bboxes=boxes))
    assert found['regions'].tolist() == [[10, 10, 30, 30]] and found['crops'].tolist() == [[5, 5, 35, 35]]
    for none in (boxes[:1], boxes[:0]):
        found = ProposalBoxes()(dict(img=drawn(), gt_bboxes=none))
        assert found['regions'].tolist() == found['crops'].tolist() == [[0, 0, 15, 10]]
    with pytest.raises(DataError, match='with_bbox=True'):
        ProposalBoxes()(dict(img=drawn()))
    with pytest.raises(ConfigError, match='max_boxes'):
        ProposalBoxes(max_boxes=0)


def test_images_are_filled_up_at_the_end_and_crops_around():
    image = np.full((40, 60, 3), 200, np.uint8)
    boxes = np.array([[0, 0, 60, 40], [10, 0, 20, 40]], np.float32)
    found = PackRegions(image_size=30, crop_size=20, proxy_size=15)(dict(img=image, regions=boxes, crops=boxes))
    sample = found['data_samples']
    assert found['inputs'].shape == (3, 30, 30) and sample.proxy.shape == (3, 15, 15)
    assert (found['inputs'][:, :20] == 200).all() and (found['inputs'][:, 20:] == 0).all()
    assert sample.boxes.tolist() == [[0, 0, 30, 20], [5, 0, 10, 20]]
    wide, tall = sample.crops  # 20 x 13, 5 x 20
    assert (wide[:, 3:16] == 200).all() and (wide[:, :3] == 0).all() and (wide[:, 16:] == 0).all()
    assert (tall[..., 7:12] == 200).all() and (tall[..., :7] == 0).all() and (tall[..., 12:] == 0).all()


def test_boxes_and_masks_of_coco_files_are_read_and_crowds_are_not(tmp_path):
    scenes = ShapesDataset(num_scenes=2, size=64, num_objects=(3, 3), pipeline=[dict(type='vlm_dense.DrawScene')])
    scenes.write_coco(tmp_path)
    file = tmp_path / 'annotations.json'
    content = json.loads(file.read_text())
    first = [annotation for annotation in content['annotations'] if annotation['image_id'] == 1]
    first[0]['iscrowd'] = 1
    file.write_text(json.dumps(content))
    load = [dict(type='vlm_dense.LoadImage'), dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]
    cfg = dict(data_root=str(tmp_path), ann_file=file.name, data_prefix=dict(img='images'), metainfo=scenes.metainfo)

    def sample(*steps):
        return CocoDataset(**cfg, pipeline=[*load, *steps])[0]['data_samples']

    tested = sample(dict(type='vlm_dense.PackRegions', image_size=96, masks=True))
    assert len(tested.boxes) == len(tested.labels) == len(tested.masks) == len(first) - 1
    assert tested.labels.tolist() == [annotation['category_id'] - 1 for annotation in first[1:]]
    for (x1, y1, x2, y2), mask in zip(tested.boxes.tolist(), tested.masks, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found == pytest.approx([x1, y1, x2, y2], abs=1.5)
    proposals = dict(type='vlm_dense.ProposalBoxes', min_size=1)
    trained = sample(proposals, dict(type='vlm_dense.PackRegions', image_size=96, crop_size=32))
    assert sorted(trained.boxes.tolist()) == sorted(tested.boxes.tolist())
    assert trained.crops.shape == (len(first) - 1, 3, 32, 32)


# --- regions of a map -----------------------------------------------------------------------------------------


def test_a_box_has_the_mean_of_the_map_at_its_centre_and_may_be_smaller_than_a_position():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # its value at x px of 64 is x / 8 - 0.5
    boxes = torch.tensor([[0.0, 0, 64, 64], [8, 8, 24, 16], [20, 20, 24, 24], [30, 30, 30.5, 30.5]])
    found = box_features(ramp, [boxes], (64, 64))
    torch.testing.assert_close(found[:, 0], (boxes[:, 0] + boxes[:, 2]) / 16 - 0.5)
    assert box_features(ramp, [boxes[:0]], (64, 64)).shape == (0, 1)


def test_a_mask_without_a_position_gives_zeros():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2, 4:] = True
    found = mask_features(torch.arange(8.0).expand(1, 1, 8, 8), [masks])
    assert found.tolist() == [[5.5], [0.0]]


# --- the model ------------------------------------------------------------------------------------------------


def test_backbones_that_cannot_be_distilled_are_refused():
    with pytest.raises(ConfigError, match='must be a ViT.*found CLIPResNet'):
        build(backbone=dict(type='vlm_dense.CLIPResNet', arch=resnet()))
    with pytest.raises(ConfigError, match='must be a ViT.*found CLIPResNet'):
        build(backbone=dict(type='vlm_dense.CLIPTower', arch=resnet()))
    with pytest.raises(ConfigError, match='must be a ViT.*found ResNet'):
        build(backbone=dict(type='mmseg.ResNet', depth=18))
    with pytest.raises(ConfigError, match='leave image_prompt out'):
        build(backbone=dict(image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2)))
    with pytest.raises(ConfigError, match='embeddings of 8 numbers, the backbone of 16'):
        build(teacher=dict(arch=vit(embed_dim=8)))
    for groups in (0, 5):
        with pytest.raises(ConfigError, match=r'trained_groups must lie in 1\.\.4'):
            build(trained_groups=groups)


def test_a_teacher_without_weights_is_warned_of(monkeypatch):
    told = []
    monkeypatch.setattr(clipself, 'print_log', lambda text, **_: told.append(text))
    build(backbone=dict(arch='tiny-vit', pretrained='bundled'))
    assert not told
    build()
    assert 'random weights and nothing to teach' in told[0]


def test_data_that_do_not_fit_are_refused():
    model = build()
    with pytest.raises(DataError, match='no multiple of the patch, 8 px'):
        model.loss(torch.randn(1, 3, 36, 32), samples(1))
    with pytest.raises(DataError, match='have no regions'):
        model.loss(torch.randn(1, 3, 32, 32), [BaseDataElement(boxes=torch.zeros(0, 4))])
    with pytest.raises(ConfigError, match='no text side'):
        model.predict(torch.randn(1, 3, 32, 32), samples(1))


@torch.no_grad()
def test_boxes_and_masks_are_named_by_the_text_side_and_an_image_may_have_none():
    model = build(text_encoder=dict(type='vlm_dense.TextTower', arch=vit()), class_names=['cat', 'dog', 'owl']).eval()
    images, found = torch.randn(2, 3, 32, 48), samples(2)
    found[1].boxes = found[1].boxes[:0]
    for sample in found:
        sample.masks = torch.ones(len(sample.boxes), 32, 48, dtype=torch.bool)
    model.predict(images, found)
    assert [tuple(sample.box_scores.shape) for sample in found] == [(3, 3), (0, 3)]
    dense, weights = model(images), model.text_side.classifier_weights()
    whole = torch.nn.functional.normalize(dense[0].mean(dim=(1, 2)), dim=0)
    torch.testing.assert_close(found[0].mask_scores, (weights @ whole).expand(3, 3))
    region = torch.nn.functional.normalize(box_features(dense[:1], [found[0].boxes], (32, 48)), dim=1)
    torch.testing.assert_close(found[0].box_scores, region @ weights.T)


def test_a_batch_without_any_region_has_no_loss_and_no_gradient():
    model = build()
    losses = model.loss(torch.randn(2, 3, 32, 32), samples(2, regions=0))
    losses['loss_cosine'].backward()
    assert losses['loss_cosine'] == 0
    assert all(not p.grad.any() for p in model.backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize('groups', [1, 2, 3, 4])
def test_groups_are_trained_from_the_last_and_never_norm_and_projection(groups):
    tower = build(trained_groups=groups).backbone
    trained = {name.split('.resblocks.')[-1][:6] for name, p in tower.named_parameters() if p.requires_grad}
    last, first = ({f'{i}.attn.', f'{i}.ln_1', f'{i}.ln_2', f'{i}.mlp.'} for i in (1, 0))
    wanted = {n[:6] for n in last} | ({n[:6] for n in first} if groups > 1 else set())
    wanted |= {'positi'} if groups > 2 else set()
    wanted |= {'conv1.', 'class_', 'ln_pre'} if groups > 3 else set()
    assert trained == wanted


@pytest.mark.parametrize('family', [*families.OPEN_CLIP_VITS, *families.BLOCKS])
def test_any_vit_learns_and_no_trained_parameter_is_without_gradient(family, monkeypatch):
    torch.manual_seed(0)
    arch = families.small(family, monkeypatch)
    model = build(backbone=dict(type='vlm_dense.CLIPTower', arch=arch)).train()
    side = arch['vision_cfg']['image_size']
    boxes = torch.tensor([[0.0, 0, side, side / 2], [1, 5, side / 2, side]])
    inputs = [BaseDataElement(boxes=boxes, crops=torch.randn(2, 3, side, side))]
    before = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    images, losses = torch.randn(1, 3, side, side), []
    for _ in range(2):
        loss = model.loss(images, inputs)['loss_cosine']
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimiser.step()
        optimiser.zero_grad()
    assert losses[1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())


def test_a_teacher_of_its_own_is_not_mixed_with():
    model = build(teacher=dict(arch=vit(layers=3)))
    assert len(model.teacher.blocks) == 3 and not model.teacher_is_beginning and build().teacher_is_beginning
    with pytest.raises(ConfigError, match='between 0 and 1'):
        MixedTowerHook(alpha=2)


# --- the tower that is written --------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """Work dir of a training of two iterations."""
    work_dir = tmp_path_factory.mktemp('clipself')
    config = ROOT / 'configs/clipself/clipself_shapes.py'
    train_tool.main([str(config), '--work-dir', str(work_dir), '--cfg-options', *SMALL])
    return work_dir


def test_the_tower_is_a_mixture_and_the_checkpoint_the_trained_one(run):
    tower = read_state_dict(run / 'tower.pth')
    trained = torch.load(run / 'iter_2.pth', weights_only=False)['state_dict']
    assert not any(key.startswith('teacher.') for key in trained)
    begun = load_clip('tiny-vit', 'bundled').visual.state_dict()
    key = 'transformer.resblocks.0.mlp.c_fc.weight'
    assert not torch.equal(begun[key], trained[f'backbone.{key}'])
    torch.testing.assert_close(tower[f'visual.{key}'], 0.3 * begun[key] + 0.7 * trained[f'backbone.{key}'])
    assert torch.equal(tower['visual.proj'], begun['proj'])


def test_resumed_after_the_end_the_same_tower_is_written(run):
    before = read_state_dict(run / 'tower.pth')
    (run / 'tower.pth').unlink()
    config = ROOT / 'configs/clipself/clipself_shapes.py'
    train_tool.main([str(config), '--work-dir', str(run), '--resume', '--cfg-options', *SMALL])
    after = read_state_dict(run / 'tower.pth')
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


METHODS = [f'{name}_tiny-vit' for name in ('maskclip/maskclip-windows', 'naclip/naclip', 'clearclip/clearclip')]


@pytest.mark.parametrize('name', [*METHODS, 'proxyclip/proxyclip_tiny-vit', 'cat_seg/cat_seg'])
def test_methods_of_segmentation_take_the_tower(run, name):
    file = str(run / 'tower.pth')
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}_shapes.py').model
    cfg.backbone.pretrained = cfg.text_encoder.pretrained = file
    model = MODELS.build(dict(cfg, class_names=['circle', 'star'])).eval()
    expected = read_state_dict(file)['visual.transformer.resblocks.3.attn.in_proj_weight']
    assert torch.equal(model.backbone.transformer.resblocks[3].attn.in_proj_weight, expected)
    begun = load_clip('tiny-vit', 'bundled').visual.transformer.resblocks[3].attn.in_proj_weight
    assert not torch.equal(begun, expected)
    assert model(torch.randn(1, 3, 96, 96)).isfinite().all()


def test_detectors_take_the_tower(run):
    file, images = str(run / 'tower.pth'), torch.randn(1, 3, 96, 96)
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = Config.fromfile(ROOT / 'configs/f_vit/f_vit_shapes.py').model
        cfg.backbone.pretrained = file
        model = MODELS.build(dict(cfg, class_names=['circle', 'star'])).eval()
    expected = read_state_dict(file)['visual.transformer.resblocks.3.attn.in_proj_weight']
    assert torch.equal(model.backbone.transformer.resblocks[3].attn.in_proj_weight, expected)
    begun = MODELS.build(dict(cfg.backbone, pretrained='bundled')).eval()
    with torch.no_grad():
        maps = model.extract_feat(images)
        before = begun.encode(images, ('value',)).value
    dense = model.roi_head.regions.features.value
    assert len(maps) == 5 and dense.isfinite().all() and not torch.equal(dense, before)  # boxes are scored on it


def test_the_file_notes_quickgelu_as_openais_do(tmp_path):
    arch = {key: value for key, value in vit().items() if key != 'quick_gelu'}
    for act, quick in (('quick_gelu', True), ('gelu', False)):
        tower = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=arch, head=True, act=act))
        torch.save(dict(state_dict=whole_clip(tower.state_dict(), tower, arch, None)), tmp_path / 'tower.pth')
        read = MODELS.build(
            dict(type='vlm_dense.CLIPViT', arch=arch, pretrained=str(tmp_path / 'tower.pth'), head=True)
        )
        assert (type(read.blocks[0].mlp.gelu).__name__ == 'QuickGELU') == quick


def test_mixed_is_linear_in_every_entry():
    before, after = dict(a=torch.zeros(2), b=torch.ones(())), dict(a=torch.ones(2), b=torch.ones(()))
    found = mixed(before, after, 0.25)
    assert found['a'].tolist() == [0.25, 0.25] and found['b'] == 1


# --- released checkpoints -------------------------------------------------------------------------------------

_THEIRS = (
    ('.attn.q_proj.bias', '.attn.q_bias'),
    ('.attn.v_proj.bias', '.attn.v_bias'),
    ('.attn.norm.', '.attn.inner_attn_ln.'),
    ('.mlp.fc1_g.', '.mlp.w1.'),
    ('.mlp.fc1_x.', '.mlp.w2.'),
    ('.mlp.fc2.', '.mlp.w3.'),
    ('.mlp.norm.', '.mlp.ffn_ln.'),
)


def test_a_released_checkpoint_in_openais_layout_loads(tmp_path):
    model = load_clip(vit())
    state = {0: dict(step=torch.tensor(3.0), exp_avg=torch.zeros(2))}
    released = {f'module.{key}': value for key, value in model.state_dict().items()}
    file = tmp_path / 'epoch_6.pt'
    torch.save(dict(epoch=6, name='clipself', state_dict=released, optimizer=dict(state=state, param_groups=[])), file)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_clip(vit(), str(file)).visual(images), model.visual(images))


def test_a_released_checkpoint_of_an_eva_tower_loads_whole(tmp_path, monkeypatch):
    arch = families.small('eva02', monkeypatch)
    model = load_clip(arch)
    released = {}
    for key, value in model.state_dict().items():
        if key.startswith('visual.trunk.'):
            key = key.replace('visual.trunk.', 'visual.')
            for ours, theirs in _THEIRS:
                key = key.replace(ours, theirs)
        released[key] = value
    rope = torch.zeros(16, 8)
    released |= {'visual.rope.freqs_cos': rope, 'visual.blocks.1.attn.rope.freqs_sin': rope}
    file = tmp_path / 'epoch_6.pt'
    torch.save(dict(epoch=6, name='clipself', state_dict=released, optimizer=dict(state={}, param_groups=[])), file)
    read = load_clip(arch, str(file))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.visual.eval()(images), read.visual(images))
    tower = MODELS.build(dict(type='vlm_dense.CLIPTower', arch=arch, pretrained=str(file)))
    text = MODELS.build(dict(type='vlm_dense.TextTower', arch=arch, pretrained=str(file)))
    assert torch.equal(tower.trunk.blocks[0].attn.q_proj.bias, released['visual.blocks.0.attn.q_bias'])
    assert torch.equal(text.state_dict()['transformer.resblocks.0.ln_1.weight'], torch.ones(32))
    del released['visual.blocks.0.mlp.w1.weight']
    torch.save(dict(state_dict=released), file)
    with pytest.raises(CheckpointError, match='fc1_g'):
        load_clip(arch, str(file))


# --- accuracy -------------------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_the_classes_that_occur():
    metric = RegionAccuracy(topk=(1, 2))
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.0], [0.1, 0.5, 0.4], [0.5, 0.4, 0.3]])
    empty = dict(labels=torch.zeros(0, dtype=torch.int64), box_scores=torch.zeros(0, 3))
    metric.process(None, [dict(labels=torch.tensor([0, 0, 0, 1]), box_scores=scores), empty])
    found = metric.evaluate(2)
    assert found['regions/boxes_top1'] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert found['regions/boxes_top2'] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found['regions/boxes_all_top1'] == 50
