"""LSeg: pixels are classified by their cosine with the class embeddings of a frozen text tower.

LSeg trains any image backbone so that the embedding of a pixel lies near the embedding of its class's name; the text
tower stays frozen. Since the classifier consists of class embeddings only, names can be replaced at test time. The head
is a component for any segmentor of mmseg; as an auxiliary head it is DenseCLIP's pixel-text loss.
"""

from vlm_dense.methods.lseg.head import PixelTextHead

__all__ = ['PixelTextHead']

PAPER = dict(
    name='LSeg',
    title='Language-driven Semantic Segmentation',
    venue='ICLR 2022',
    link='https://arxiv.org/abs/2201.03546',
    code='https://github.com/isl-org/lang-seg',
    licence='MIT',
    idea='A decode head with the matrix of class embeddings as classifier, on any backbone trained to fit them.',
    contract='any T that does not read the image; mmseg losses on cosines over a temperature',
    notes="""
The head works in any segmentor of mmseg, see [docs/components.md](../../docs/components.md). The paper's network is a
DPT on a ViT-L/16, with optional blocks that smooth the maps of classes; here the backbone and neck are those of the
config, and there are no such blocks.
""",
)
