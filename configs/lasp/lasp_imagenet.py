# LASP on ImageNet, 16 shots, ViT-B/16, as released: 25 epochs, batch 32.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/lasp_25e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.LASPPrompt', words='a photo of a', templates='lasp', weight=5.0),
    trainable=['ln_[12]'],
)

# what the release's logs have elsewhere, for tools/compare.py; it has neither log nor script for ImageNet
recipes = {
    **{
        name: dict(sets=[name], length=50, options={'param_scheduler.0.warmup': 5, 'model.text_prompt.weight': 10.0})
        for name in ('caltech101', 'dtd', 'ucf101')
    },
    'eurosat': dict(sets=['eurosat'], length=300, options={'param_scheduler.0.warmup': 7}),
    'food101': dict(
        sets=['food101'],
        length=10,
        options={
            'train_dataloader.batch_size': 1,
            'optim_wrapper.optimizer.lr': 0.002,
            'param_scheduler.0.warmup': 1,
        },
    ),
}
# with half of the classes, the loss on texts still has the names of all; of a plain training these are the same
recipes |= {
    'names': dict(
        protocols=['base-to-new'],
        options={
            'model.text_prompt.whole_set': dict(
                type='vlm_dense.ImageSetDataset', name='{set}', data_root={{_base_.data_root}}, split='test'
            )
        },
    )
}
published = [dict(sets='others', protocols=['base-to-new'], shots=[16])]
