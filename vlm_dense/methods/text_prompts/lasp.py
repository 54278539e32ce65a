"""LASP: learned prompts that classify hand-written ones.

LASP regularises learned prompts with text alone: embeddings with the learned context must classify hand-written
sentences about the same classes. This loss needs no images, so names of classes that have none can take part. A
correction that is added to the embeddings and the trained layer norms of the image tower bring images and texts
together again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.loading import check_fit
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import WiderContext, names_of
from vlm_dense.contract.release import read_release
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.templates import as_templates

PAPER = dict(
    name='LASP',
    title='LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language Models',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2210.01115',
    code='https://github.com/1adrianb/lasp',
    licence='MIT',
    idea=(
        'Learned vectors in front of the class name, and a loss that needs no image: every hand-written sentence '
        'about a class must be classified as that class by the learned prompts. A learned shift of the class '
        "embeddings and the layer norms of the image tower (`trainable=['ln_[12]']`) are trained as well."
    ),
    trains='context vectors, which must classify hand-written prompts; layer norms of the image tower',
    published='11 sets, ViT-B/16, 16 shots: base 83.0, new 76.6, mean 79.7',
    contract='templates, all names; `trainable` layer norms; (K, D) + correction; CE + text-to-text',
    notes="""
`all_names`, or `whole_set`, are the names of the text-to-text loss; the official code takes those of the new classes
too, and so does `vlm-dense compare --protocols base-to-new`. Without it, the names are those that images are trained
with.

Published, 11 data sets, ViT-B/16, 16 shots (authors' README): base 83.0, new 76.6, harmonic mean 79.7; ImageNet 76.3,
71.2, 73.6.
""",
)


LAYER_NORMS = r'^image_encoder\.(transformer\.resblocks\.\d+\.ln_[12]\.(?:weight|bias))$'
"""Trained parameters of the image tower, in the release's names."""


@MODELS.register_module()
class LASPPrompt(WiderContext):
    """CoOp's prompt with the name at the end, a shift b of its embedding, and a text-to-text loss (sections 3.2, 3.3).

    With w_k = g(prompt_k) + b, T templates and t_(j,a) the unit embedding of template j for the name a::

        loss_text_to_text = weight * mean_(j,a) -log softmax_c(s * cos(w_c, t_(j,a)))[a]

    over all names a and c. In half of the steps, noise is added to t. The paper's several groups of prompts are not in
    the official code, nor here.

    Virtual classes (LASP-V) are classes without images: let ``class_names`` of the model be those of the images and
    then the others. The layer norms of the image tower, which the method also trains, are ``trainable=['ln_[12]']``
    of the classifier.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: Only to load its layer norms from ``pretrained``.
        all_names: Names of the text-to-text loss, default ``class_names``. The official code takes all names of the
            data set, those of new classes too.
        whole_set: Config of a data set with these names, see :func:`~vlm_dense.contract.prompt.names_of`; instead of
            ``all_names``.
        templates: Sentences with ``{}`` for the name, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`; the release's is 'lasp'.
        weight: alpha.
        noise: Standard deviation of the noise.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Attributes:
        w: b, (1, D); the release gives it the width of the text tower, which is D in ViT-B.

    Raises:
        ConfigError: a template without ``{}``, or layer norms in ``pretrained`` and no image tower.
    """

    ignored_prefixes = (*WiderContext.ignored_prefixes, 'class_text_features')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower | None = None,
        all_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = 'lasp',
        weight: float = 5.0,
        noise: float = 0.05,
        words: str | None = 'a photo of a',
        num_contexts: int | None = None,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        whole_set: Mapping | None = None,
    ):
        all_names = tuple(all_names or class_names) if whole_set is None else names_of(whole_set)
        own = dict(num_contexts=num_contexts, words=words, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, all_names, **own)
        templates = as_templates(templates, 'LASPPrompt')
        sentences = [t.format(name.replace('_', ' ')) for t in templates for name in all_names]
        self.register_buffer('template_ids', text_tower.tokenize(sentences), persistent=False)
        self.weight, self.noise = weight, noise
        self.w = nn.Parameter(torch.zeros(1, text_tower.embed_dim))
        self._references: tuple[Tensor, Tensor] | None = None
        self.load_pretrained(pretrained)
        self._load_layer_norms(pretrained, image_tower)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """w, (K, D). In training all names are encoded in the same pass."""
        if self.training:
            self._references = self.references(text_tower), text_tower.logit_scale.exp()
        return super().forward(text_tower, image_features, classes)

    def encode(
        self, text_tower: TextTower, context: Tensor, classes: Tensor | None = None, deep: Tensor | None = None
    ) -> Tensor:
        """Embeddings with the shift, see :meth:`LearnedContext.encode`."""
        return super().encode(text_tower, context, classes, deep) + self.w

    def references(self, text_tower: TextTower) -> Tensor:
        """Embeddings (T, A, D) of all names in all templates, not normalised; a frozen tower computes them once."""
        return text_tower.encode_tokens(self.template_ids).detach().float().unflatten(0, (-1, len(self.loss_names)))

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_text_to_text``, over all names."""
        learned, (written, scale) = self.loss_embeddings, self._references
        with torch.autocast(learned.device.type, enabled=False):  # the scale magnifies rounding
            references = F.normalize(written, dim=-1)
            noise = self.draw_noise(references)
            references = references if noise is None else references + noise
            logits = scale * references.flatten(0, 1) @ F.normalize(learned.float(), dim=-1).T
            labels = torch.arange(len(learned), device=logits.device).repeat(len(written))
            return dict(loss_text_to_text=self.weight * F.cross_entropy(logits, labels))

    def draw_noise(self, references: Tensor) -> Tensor | None:
        """Noise (T, A, D) of this step, or ``None`` in half of the steps."""
        return self.noise * torch.randn_like(references) if self.noise and torch.rand(()) < 0.5 else None

    def _load_layer_norms(self, path: str | None, image_tower: ImageTower | None) -> None:
        weights = {} if path is None else read_release(path)
        found = {match[1]: value for key, value in weights.items() if (match := re.match(LAYER_NORMS, key))}
        if not found:
            return
        if image_tower is None:
            raise ConfigError(
                f'LASPPrompt: {path} holds {len(found)} layer norms of the image tower, and this model does not show '
                'its tower to the prompt. Use a model with a CLIP tower as backbone, or a file of ctx and w alone.'
            )
        own = {k: p for k, p in image_tower.named_parameters() if re.match(LAYER_NORMS, f'image_encoder.{k}')}
        check_fit(found, {name: parameter.shape for name, parameter in own.items()}, path)
        for name, value in found.items():
            own[name].data.copy_(value)
