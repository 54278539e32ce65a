# SoftCPT (CATA) on General-10, 16 shots, RN50, a tenth of the absent classes in each step. Optimiser and scheduler step
# four times, as published figures were made; the equations have one step: --cfg-options optim_wrapper.times=1
# param_scheduler.0.times=1. The official names of the tasks lie beside its data; these are our own.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/general10_tasks.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.SoftCPTPrompt',
        source='both',
        num_contexts=16,
        tasks={
            'generic objects': 100,
            'pets': 37,
            'cars': 196,
            'flowers': 102,
            'food': 101,
            'aircraft': 100,
            'scenes': 397,
            'textures': 47,
            'satellite images': 10,
            'human actions': 101,
        },
    ),
    loss=dict(type='vlm_dense.SoftCPTLoss', rate=0.1),
)
optim_wrapper = dict(type='vlm_dense.RepeatedSteps', times=4)
param_scheduler = [dict(type='vlm_dense.RepeatedCosineLR', period=50, times=4)]
published = [dict(protocols=['tasks'])]
