"""DPT with CAVPT: tokens of the top blocks that the likely classes make out of the image.

Text contexts as in CoOp and deep tokens of the image tower are learned together. In the last blocks the image tokens
are computed on the fly: the embeddings of the classes that zero-shot CLIP finds likely attend to the image tokens of
that block. A small classifier on these class-aware tokens adds a loss, so that they attend to the object of the
class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext, TemplateReference
from vlm_dense.contract.roles import ImagePrompt, Loss, Step
from vlm_dense.errors import ConfigError
from vlm_dense.methods.visual_prompts.vpt import check_vit
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CAVPT',
    title='Dual Modality Prompt Tuning for Vision-Language Pre-Trained Model',
    venue='IEEE TMM 2023',
    link='https://arxiv.org/abs/2208.08340',
    code='https://github.com/fanrena/DPT',
    licence='none',
    idea=(
        "Dual modality prompt tuning: CoOp's context and VPT-deep are learned together, and in the top block the "
        "tokens are made on the fly. Embeddings of the classes that look likely attend to the image's tokens, and a "
        'small classifier supervises them.'
    ),
    trains='context vectors, tokens of the image tower, and layers that make tokens of the likely classes',
    contract=(
        '`plain` global feature, class embeddings, templates; tokens from hidden states (`before_block`); CE (three '
        'by epoch) + class-aware'
    ),
    notes="""
- The official code has an optimiser for each module; here one, with a fifth of the rate for the context.
- The classifiers of the tokens have a row a class and serve training only. From a release for other classes
  everything but them is loaded.
- In a DenseCLIP no label of an image trains these classifiers; the tokens themselves learn there from the pixels.

Published: curves and means over eleven data sets, in the paper.
""",
)


class _Attention(nn.Module):
    """One head of 32 channels with the memory itself as values, mapped after the sum."""

    def __init__(self, width: int, head_width: int = 32):
        super().__init__()
        self.qmlp = nn.Linear(width, head_width, bias=False)
        self.kmlp = nn.Linear(width, head_width, bias=False)
        self.vmlp = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        scores = self.qmlp(queries) @ self.kmlp(memory).transpose(1, 2)
        return self.vmlp((scores / self.qmlp.out_features**0.5).softmax(dim=-1) @ memory)


class ClassAwareBlock(nn.Module):
    """Token generator of one block (section III-C).

    Args:
        text_dim, width: Channels D of class embeddings and C of the image tower.
        num_classes: K.
        num_memory: Learned vectors beside the image's tokens.
        std: Their initial standard deviation.
    """

    def __init__(self, text_dim: int, width: int, num_classes: int, num_memory: int, std: float):
        super().__init__()
        self.memory = nn.Parameter(std * torch.randn(num_memory, width))
        self.query = nn.Linear(text_dim, width)
        self.attention = _Attention(width)
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes, bias=False)

    def forward(self, text: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, k, C) and what class each of them shows, logits (B, k, K).

        Args:
            text: Class embeddings of the likely classes of each image, (B, k, D).
            x: Hidden states of class token and patches, (B, L, C); no gradient flows into them from here.
        """
        queries = self.query(text)
        memory = torch.cat([x.detach(), self.memory.to(x.dtype).expand(x.shape[0], -1, -1)], dim=1)
        read = self.attention(queries, memory)
        return self.norm_out(read + queries), self.classifier(self.norm(read))


@dataclass
class ClassAwareTokens(PromptTokens):
    """Learned tokens at the end of the lower blocks, and those of :class:`ClassAwareBlock` in the upper ones.

    Attributes:
        lower: Number of the lower blocks.
        blocks: Of the upper blocks, the last of the tower.
        text: (B, k, D) embeddings of the likely classes of each image.
        selected: (B, k) int64, these classes, the likeliest first.
        plain: (B, D) image features of the tower without prompts, unit vectors.
        written: (K, D) class embeddings of the hand-written sentence, unit vectors.
        class_logits: (B, k, K) of each upper block that has run.
    """

    lower: int = 1
    blocks: Sequence[ClassAwareBlock] = ()
    text: Tensor | None = None
    selected: Tensor | None = None
    plain: Tensor | None = None
    written: Tensor | None = None
    class_logits: list[Tensor] = field(default_factory=list)

    def before_block(self, index: int, x: Tensor) -> Tensor:
        """As in :class:`PromptTokens`; before an upper block its own tokens replace the previous ones."""
        upper = index - self.lower
        if upper < 0:
            return super().before_block(index, x)
        before = self.text.shape[1] if upper else self.num_tokens
        x = x[:, : x.shape[1] - before]
        tokens, logits = self.blocks[upper](self.text, x)
        self.class_logits.append(logits)
        return torch.cat([x, tokens.to(x.dtype)], dim=1)


@MODELS.register_module()
class CAVPTPrompt(LearnedContext, ImagePrompt):
    """CoOp's context, VPT-deep in the lower blocks, class-aware tokens in the upper ones (section III).

    The k classes with the hand-written sentence nearest to the image, by the tower without prompts, are likely.
    In each upper block, their embeddings t, mapped to Q, look at the block's tokens and at learned vectors E::

        O = Attention(Q, [x, E]),  token = LN(O + Q),  its class = argmax of C LN'(O)

    The loss is :class:`CAVPTLoss`.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The ViT.
        num_contexts, words, position, class_specific, std: See :class:`LearnedContext`.
        template: The hand-written sentence, with ``{}`` for the class name; CoOp's sentence of the data set.
        num_tokens: Tokens of each lower block.
        lower_blocks: Number of lower blocks; default: all but the last; 0: every block has class-aware tokens.
        likely: k; no more than there are classes.
        num_memory: Vectors E of each upper block.
        pretrained: Name of each module of the official code -> its checkpoint. Classifiers C of other classes, which
            only training needs, are left out.

    Attributes:
        tokens: (number of lower blocks, M, C).
        upper: :class:`ClassAwareBlock` of each upper block.

    Raises:
        ConfigError: a tower that is no ViT or has no block for one of the two kinds, numbers below 1, or a template
            without ``{}``.
    """

    plain = ('global',)
    reads_text = True
    key_map = {
        r'^image_encoder\.transformer\.ctx_learner\.ctx$': 'tokens',
        r'^image_encoder\.transformer\.extractor\.ctx$': 'memory',
        r'^image_encoder\.transformer\.extractor\.meta_nets\.(\d+)\.': r'upper.\1.query.',
        r'^image_encoder\.transformer\.extractor\.attns\.(\d+)\.': r'upper.\1.attention.',
        r'^image_encoder\.transformer\.extractor\.lns\.(\d+)\.': r'upper.\1.norm.',
        r'^image_encoder\.transformer\.extractor\.lns2\.(\d+)\.': r'upper.\1.norm_out.',
        r'^image_encoder\.transformer\.extractor\.classfiers\.(\d+)\.': r'upper.\1.classifier.',
    }
    ignored_prefixes = (*LearnedContext.ignored_prefixes, 'text_features')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        num_contexts: int | None = 16,
        words: str | None = None,
        position: str = 'end',
        class_specific: bool = False,
        template: str = 'a photo of a {}.',
        num_tokens: int = 10,
        lower_blocks: int | None = None,
        likely: int = 10,
        num_memory: int = 10,
        std: float = 0.02,
        pretrained: Mapping[str, str] | None = None,
        init_cfg: dict | None = None,
    ):
        check_vit(image_tower, type(self).__name__)
        depth = len(image_tower.blocks)
        lower = depth - 1 if lower_blocks is None else lower_blocks
        if not 0 <= lower < depth or min(num_tokens, likely, num_memory) < 1:
            raise ConfigError(
                f'CAVPTPrompt: lower_blocks must lie in 0..{depth - 1} for {depth} blocks, num_tokens, likely and '
                f'num_memory be at least 1; found {lower}, {num_tokens}, {likely} and {num_memory}.'
            )
        own = dict(position=position, class_specific=class_specific, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, num_contexts, words, **own)
        self.reference = TemplateReference(self.class_names, text_tower, template, type(self).__name__)
        self.likely = likely
        self.tokens = nn.Parameter(std * torch.randn(lower, num_tokens, image_tower.width))
        sizes = text_tower.embed_dim, image_tower.width, len(self.class_names), num_memory, std
        self.upper = nn.ModuleList(ClassAwareBlock(*sizes) for _ in range(depth - lower))
        self.load_pretrained(pretrained)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        self.reference(text_tower, classes)  # the image prompt asks which classes are likely
        return super().forward(text_tower, image_features, classes)

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, ClassAwareTokens]:
        """Images as they are, and the tokens.

        Args:
            images: (B, 3, H, W).
            text: Class embeddings (K, D) as :meth:`forward` gave them.
            plain: ``global_`` features of the tower without prompts.
        """
        seen = F.normalize(plain.global_.float(), dim=-1)
        written = self.reference.embeddings
        selected = (seen @ written.T).topk(min(self.likely, len(written)), dim=1).indices
        first, *deep = self.tokens if len(self.tokens) else (self.tokens.flatten(0, 1),)
        own = dict(blocks=self.upper, text=text[selected], selected=selected, plain=seen, written=written)
        return images, ClassAwareTokens(first, tuple(deep), through_ln_pre=False, lower=len(self.tokens), **own)

    def convert_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The release has E of all blocks in one tensor."""
        memory, own = weights.pop('memory', ()), self.state_dict()
        weights.update({f'upper.{i}.memory': vectors for i, vectors in enumerate(memory)})
        for name in [name for name in weights if name.endswith('.classifier.weight')]:
            if name in own and weights[name].shape[1:] == own[name].shape[1:] and len(weights[name]) != len(own[name]):
                weights[name] = own[name]
        return weights

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        lower, count, width = self.tokens.shape
        return (
            f'{super().describe_shapes()} It has {count} tokens of {width} channels for each of {lower} lower blocks, '
            f'and {len(self.upper)} upper blocks.'
        )


@MODELS.register_module()
class CAVPTLoss(Loss):
    """Cross-entropy, and whether tokens of the true class show it (section III-D).

    ``loss_class_aware`` is alpha times the cross-entropy of a token's class logits, a mean over upper blocks and over
    images with a class among the likely ones; 0 without such images. In the first epochs ``loss_ce`` is that of s,
    times 0.1, and that of both towers against the other one without prompts is added, ``loss_text`` and
    ``loss_image``: general knowledge guides them.

    Args:
        alpha: See above.
        guided_epochs: Number of these first epochs.
    """

    def __init__(self, alpha: float = 0.3, guided_epochs: int = 30):
        super().__init__()
        self.alpha, self.guided_epochs = alpha, guided_epochs

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_class_aware``, and in the first epochs ``loss_text`` and ``loss_image``.

        Raises:
            ConfigError: the image tower was given other tokens than those of :class:`CAVPTPrompt`.
        """
        tokens, labels = step.features.prompts, step.labels()
        if not isinstance(tokens, ClassAwareTokens):
            raise ConfigError(
                'CAVPTLoss belongs to CAVPTPrompt, with class-aware tokens; found '
                f'{type(tokens).__name__}. Use text_prompt=dict(type="vlm_dense.CAVPTPrompt").'
            )
        losses = dict(
            loss_ce=F.cross_entropy(step.logits, labels), loss_class_aware=self.alpha * self.class_aware(tokens, labels)
        )
        if step.epoch < self.guided_epochs:
            text, image = self.towers_alone(step, tokens)
            losses['loss_ce'] = 0.1 * losses['loss_ce']
            losses.update(loss_text=F.cross_entropy(text, labels), loss_image=F.cross_entropy(image, labels))
        return losses

    @staticmethod
    def class_aware(tokens: ClassAwareTokens, labels: Tensor) -> Tensor:
        """The mean over tokens of the true class, before alpha."""
        logits = torch.stack(tokens.class_logits, dim=1).float()  # (B, blocks, k, K)
        image, place = (tokens.selected == labels[:, None]).nonzero(as_tuple=True)
        shown = logits[image, :, place].flatten(0, 1)
        if not len(shown):
            return 0 * logits.sum()
        return F.cross_entropy(shown, labels[image].repeat_interleave(logits.shape[1]))

    @staticmethod
    def towers_alone(step: Step, tokens: ClassAwareTokens) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of prompted text and plain image, and of written text and prompted image."""
        text, image = F.normalize(step.text.float(), dim=-1), F.normalize(step.features.global_.float(), dim=-1)
        return step.logit_scale * tokens.plain @ text.T, step.logit_scale * image @ tokens.written.T
