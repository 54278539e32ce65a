"""CoOp: the words around a class name are learned.

CoOp puts a few free vectors instead of the words around a class name. They are trained by cross-entropy through the
frozen text tower, and shared by all classes or learned for each class. The image tower is untouched, and inference
costs as much as with a hand-written prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CoOp',
    title='Learning to Prompt for Vision-Language Models',
    venue='IJCV 2022',
    link='https://arxiv.org/abs/2109.01134',
    code='https://github.com/KaiyangZhou/CoOp',
    licence='MIT',
    idea='Learned vectors instead of the words around a class name.',
    trains='context vectors of the text prompt',
    published='11 sets, ViT-B/16, 16 shots: base 82.7, new 63.2, mean 71.7',
    contract='(K, D); CE',
)


@MODELS.register_module()
class CoOpPrompt(LearnedContext):
    """M learned vectors v around the class name, trained by the task's loss alone (section 3.2).

    =========== ======================================================
    ``end``     ``[SOS] v_1 .. v_M name . [EOT]``
    ``middle``  ``[SOS] v_1 .. v_(M//2) name v_(M//2+1) .. v_M . [EOT]``
    ``front``   ``[SOS] name v_1 .. v_M . [EOT]``
    =========== ======================================================

    The defaults are the paper's main setting; ``words='a photo of a'`` is that of its comparisons under domain shift.

    Initial words in the official code make ``class_specific`` void; here each class then begins with a copy of them.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.
        **kwargs: ``num_contexts``, ``words``, ``position``, ``class_specific``, ``std``, see :class:`LearnedContext`.
    """

    def __init__(self, class_names: Sequence[str], text_tower: TextTower, pretrained: str | None = None, **kwargs: Any):
        super().__init__(class_names, text_tower, **kwargs)
        self.load_pretrained(pretrained)
