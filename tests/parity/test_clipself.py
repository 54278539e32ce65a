"""CLIPSelf equals the official code: map, regions, loss, gradients, what is trained, the EVA tower, and its data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from distillation_case import build, check_gradients, check_trained, eva_tower, samples_of
from official import Case, array, integers

from vlm_dense.methods.distillation.clipself import box_features, mask_features
from vlm_dense.methods.distillation.views import GridBoxes, PackRegions, RegionDataPreprocessor, enlarged, grid_boxes

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _check_training(case: Case) -> None:
    config = case.config
    model = build(config, type='vlm_dense.CLIPSelf', cosine_weight=config['cosine_weight'])
    check_trained(case, model.backbone)
    images, samples = samples_of(case)
    dense = model.student_features(images).value
    case.check('mid/dense', dense[:, ::4])
    boxes, size = [sample.boxes for sample in samples], tuple(images.shape[2:])
    case.check('mid/student_roi', box_features(dense, boxes, size))
    case.check('mid/teacher_crop', model.teacher_embeddings(torch.cat([sample.crops for sample in samples])))
    losses = model.train().loss(images, samples)
    case.check('losses/loss_cosine', losses['loss_cosine'])
    losses['loss_cosine'].backward()
    check_gradients(case, model.backbone)
    grid = tuple(dense.shape[2:])
    masks = [array(f'{config["seed"]}/mask{i}', (2, *grid)) > 0 for i in range(config['batch'])]
    case.check('alt/mask_pool', F.normalize(mask_features(dense, masks), dim=-1))


@torch.no_grad()
def _check_eva(case: Case) -> None:
    config = case.config['eva']
    tower, images = eva_tower(config), array(*config['image'])
    found = tower.encode(images, ('value', 'global'))
    dense = F.normalize(found.value, dim=1)
    case.check('eva/dense', dense[:, ::4])
    case.check('eva/image', found.global_)
    boxes = torch.from_numpy(case['normed_boxes'])[0]
    boxes = boxes[boxes[:, 4] > 0.5, :4] * images.shape[3]
    case.check('eva/roi', box_features(dense, [boxes] * len(images), tuple(images.shape[2:])))


def _check_data(case: Case) -> None:
    config = case.config['data']
    choices = GridBoxes(config['max_split']).choices
    case.check('data/num_choices', torch.tensor(len(choices)))
    case.check('data/choices', torch.tensor(choices))
    height, width, block = (config[key] for key in ('height', 'width', 'block'))
    pixels = integers(config['image'], height * width * 3, 256).reshape(height, width, 3)[::block, ::block]
    pixels = pixels.repeat_interleave(block, 0).repeat_interleave(block, 1)[:height, :width]
    boxes = grid_boxes(config['choice'], width, height)[: config['max_boxes']]
    crops = enlarged(boxes, config['crop_scale'], width, height) if config['crop_scale'] > 1 else boxes
    pack = PackRegions(config['det_image_size'], config['crop_size'])
    packed = pack(dict(img=pixels.to(torch.uint8).numpy(), regions=boxes, crops=crops))
    normalise = RegionDataPreprocessor(mean=[255 * x for x in MEAN], std=[255 * x for x in STD])
    found = normalise(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]))
    [sample] = found['data_samples']
    case.check('data/image', found['inputs'][0, :, ::3, ::3])
    case.check('data/boxes', sample.boxes / config['det_image_size'])
    case.check('data/crops', sample.crops[..., ::3, ::3])


def test_every_official_number_is_reproduced(clipself_case):
    case = Case(clipself_case)
    _check_training(case)
    _check_eva(case)
    _check_data(case)
    case.done()
