# CoOp of coop_shapes.py as a pure Python config, in iterations.
from mmengine.config import read_base

with read_base():
    from ._base_.runtime import *

from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.optim import SGD

from vlm_dense.classification import Accuracy, CLIPClassifier, ClsDataPreprocessor, FewShotDataset, PackClsInputs
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.datasets.shapes import DrawScene, ShapesDataset
from vlm_dense.methods.text_prompts.coop import CoOpPrompt

model = dict(
    type=CLIPClassifier,
    data_preprocessor=dict(
        type=ClsDataPreprocessor,
        **colours,
    ),
    backbone=dict(type=CLIPViT, arch='tiny-vit', pretrained='bundled', head=True),
    text_encoder=dict(type=TextTower, arch='tiny-vit', pretrained='bundled'),
    text_prompt=dict(type=CoOpPrompt, num_contexts=16),
)
scene = dict(
    type=ShapesDataset,
    size=64,
    num_objects=(1, 1),
    label='shape',
    domain='night',
    pipeline=[dict(type=DrawScene), dict(type=PackClsInputs)],
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(type=FewShotDataset, shots=16, seed=1, dataset=dict(split='train', num_scenes=1000, **scene)),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(split='test', num_scenes=1000, **scene),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy)
test_evaluator = val_evaluator
optim_wrapper.update(optimizer=dict(type=SGD, lr=0.002, momentum=0.9, weight_decay=5e-4))
train_cfg.update(max_iters=200, val_interval=100)
