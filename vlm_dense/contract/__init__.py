"""The contract that all methods keep, and the one text side that every task uses; see docs/contract.md."""

from vlm_dense.contract.dense_attention import DenseAttention, ValueAttention
from vlm_dense.contract.preparation import Prepared
from vlm_dense.contract.prompt import (
    LearnedContext,
    PrecomputedEmbeddings,
    TemplateReference,
    TextPrompt,
    WiderContext,
)
from vlm_dense.contract.release import Pretrained, load_release
from vlm_dense.contract.roles import CosineHead, CrossEntropy, Head, ImagePrompt, Loss, Step, TestTimeAdaptation
from vlm_dense.contract.stream import StreamAdaptation
from vlm_dense.contract.task_loss import TaskCrossEntropy
from vlm_dense.contract.text_side import TextSide

__all__ = [
    'CosineHead',
    'CrossEntropy',
    'DenseAttention',
    'Head',
    'ImagePrompt',
    'LearnedContext',
    'Loss',
    'PrecomputedEmbeddings',
    'Prepared',
    'Pretrained',
    'Step',
    'StreamAdaptation',
    'TaskCrossEntropy',
    'TemplateReference',
    'TestTimeAdaptation',
    'TextPrompt',
    'TextSide',
    'ValueAttention',
    'WiderContext',
    'load_release',
]
