# The baseline without text of denseclip_retinanet_shapes.py, same budget.
_base_ = [
    '../_base_/models/clip_retinanet_tiny-rn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]

val_evaluator = dict(metric=['bbox'])
test_evaluator = val_evaluator
