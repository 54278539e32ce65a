# 4 drawn scenes by night of each of 64 classes ('red circle', ...) in a tree of 8 shapes.
# A config names all nodes to the model: model = dict(class_names={{_base_.nodes}}); labels count the 64 leaves.
_base_ = './shapes_few-shot.py'

colours = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
shapes = ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart')
taxonomy = {shape: [f'{colour} {shape}' for colour in colours] for shape in shapes}
leaves = [name for names in taxonomy.values() for name in names]
nodes = [name for shape, names in taxonomy.items() for name in (shape, *names)]
scene = dict(label='shape_colour')
train_dataloader = dict(dataset=dict(shots=4, dataset=scene))
val_dataloader = dict(batch_size=100, dataset=dict(shots=4, dataset=dict(num_scenes=1000, **scene)))
test_dataloader = dict(dataset=scene)
val_evaluator = dict(type='vlm_dense.TaxonomyMetric')
test_evaluator = val_evaluator
source = targets = domains = single_tasks = dict(_delete_=True)  # none
