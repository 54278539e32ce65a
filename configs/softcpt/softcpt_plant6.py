# SoftCPT (CATA) on Plant-6, 16 shots, RN50, all classes in each step. Optimiser and scheduler step four times, as in
# softcpt_general10.py. The official names of the tasks lie beside its data; these are our own.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/plant6_tasks.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.SoftCPTPrompt',
        source='both',
        num_contexts=16,
        tasks={
            'fruits and vegetables': 36,
            'flowers': 5,
            'mushrooms': 9,
            'vegetables': 15,
            'plant seedlings': 12,
            'diseases of plant leaves': 39,
        },
    ),
    loss=dict(type='vlm_dense.SoftCPTLoss'),
)
optim_wrapper = dict(type='vlm_dense.RepeatedSteps', times=4)
param_scheduler = [dict(type='vlm_dense.RepeatedCosineLR', period=50, times=4)]
published = [dict(protocols=['tasks'])]
