"""CLIP baselines: no part of their own, only configs.

These are the models that DenseCLIP is compared with: CLIP's image tower is fine-tuned as the backbone of an ordinary
segmentor or detector. The text tower is not used, and classes are learned from scratch by the head. The distance to
DenseCLIP shows what the text branch adds.
"""

PAPER = dict(
    name='CLIP baselines',
    title='Learning Transferable Visual Models From Natural Language Supervision',
    venue='ICML 2021',
    link='https://arxiv.org/abs/2103.00020',
    code='https://github.com/raoyongming/DenseCLIP',
    licence='MIT',
    idea=(
        "CLIP's image towers under mmseg's FPN head and mmdet's detectors, without text: what DenseCLIP is compared "
        "with. Published figures are those that DenseCLIP's authors give for them."
    ),
    notes="""
More in [docs/denseclip.md](../../docs/denseclip.md).
""",
)
