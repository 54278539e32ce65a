"""KgCoOp: learned prompts that stay near hand-written ones.

Accuracy on new classes falls with the distance of the learned class embeddings from those of hand-written prompts.
KgCoOp adds to CoOp's loss one minus the cosine between the two, averaged over the classes. Inference is that of CoOp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext, TemplateReference
from vlm_dense.registry import MODELS

PAPER = dict(
    name='KgCoOp',
    title='Visual-Language Prompt Tuning with Knowledge-guided Context Optimization',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2303.13283',
    code='https://github.com/htyao89/KgCoOp',
    licence='MIT',
    idea='CoOp with class embeddings held near those of a hand-written prompt.',
    trains='context vectors, held near a hand-written prompt',
    published='11 sets, ViT-B/16, 16 shots: base 80.7, new 73.6, mean 77.0',
    contract='template; (K, D); CE + `loss_kg`',
)


@MODELS.register_module()
class KgCoOpPrompt(LearnedContext):
    """CoOp's prompt with the name at the end, and a loss on its distance from a hand-written prompt (section 3.3).

    ``loss_kg = weight * (1 - mean_k cos(w_k, t_k))``, w_k learned, t_k hand-written. The paper writes the squared
    distance of unit vectors, twice that; its weight of 8 belongs to the form here, which is the official code's.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        template: The hand-written prompt, with ``{}`` for the class name. For many data sets the official one differs,
            as 'a photo of a {}, a type of pet.'.
        weight: lambda.
        words, num_contexts, class_specific, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.
    """

    # the release also saves modules that nothing reads
    ignored_prefixes = (*LearnedContext.ignored_prefixes, 'bias_vectors', 'meta_net.', 'adapter.')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        template: str = 'a photo of a {}.',
        weight: float = 8.0,
        words: str | None = 'a photo of a',
        num_contexts: int | None = None,
        class_specific: bool = False,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        own = dict(class_specific=class_specific, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, num_contexts, words, **own)
        self.reference = TemplateReference(self.class_names, text_tower, template, type(self).__name__)
        self.weight = weight
        self.load_pretrained(pretrained)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        if self.training:
            self.reference(text_tower, classes)
        return self.encode(text_tower, self.ctx, classes)

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_kg``, over all classes, of the class embeddings w (K, D) of this iteration."""
        cosines = F.cosine_similarity(class_embeddings.float(), self.reference.embeddings, dim=-1)
        return dict(loss_kg=self.weight * (1 - cosines.mean()))
