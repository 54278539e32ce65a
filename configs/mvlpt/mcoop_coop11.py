# MVLPT's prompt of the text tower alone (MCoOp), the 11 sets of CoOp at once, ViT-B/16.
_base_ = './mvlpt_coop11.py'

model = dict(text_prompt=dict(_delete_=True, type='vlm_dense.CoOpPrompt', num_contexts=16, position='middle'))
