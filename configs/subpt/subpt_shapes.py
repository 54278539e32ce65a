# SubPT with NFL, 16 shots, on drawn scenes by night: a minute.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/subpt_10-50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.SubPTPrompt',
        num_contexts=16,
        novel_names=['moon', 'box', 'disc', 'band', 'plus sign', 'polygon', 'hole', 'bar'],
        weight=1.0,
    )
)
default_hooks = dict(subspace=dict(type='vlm_dense.SubspaceHook', early=10, rank=5))
