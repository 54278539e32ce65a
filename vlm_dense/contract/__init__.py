"""The contract that all methods keep, and the one text side that every task uses; see docs/contract.md."""

from vlm_dense.contract.dense_attention import DenseAttention, ValueAttention
from vlm_dense.contract.learned_context import LearnedContext, WiderContext
from vlm_dense.contract.preparation import Prepared
from vlm_dense.contract.release import Pretrained
from vlm_dense.contract.roles import CosineHead, CrossEntropy, Head, ImagePrompt, Loss, Step, TestTimeAdaptation
from vlm_dense.contract.stream import StreamAdaptation
from vlm_dense.contract.task_loss import TaskCrossEntropy
from vlm_dense.contract.text_guided import TextGuided
from vlm_dense.contract.text_prompt import TextPrompt

__all__ = [
    'CosineHead',
    'CrossEntropy',
    'DenseAttention',
    'Head',
    'ImagePrompt',
    'LearnedContext',
    'Loss',
    'Prepared',
    'Pretrained',
    'Step',
    'StreamAdaptation',
    'TaskCrossEntropy',
    'TestTimeAdaptation',
    'TextGuided',
    'TextPrompt',
    'ValueAttention',
    'WiderContext',
]
