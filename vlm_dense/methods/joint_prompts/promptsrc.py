"""PromptSRC: deep prompts of both towers that stay near frozen CLIP, and their mean over the epochs.

Deep prompts of both towers are held near frozen CLIP: the prompted text features, image features and logits are drawn
towards those without prompts. The frozen text target is a mean over sixty templates, which gives the text as much
variety as augmentation gives to images. At test time the prompts are a mean over all epochs, weighted by a Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.roles import CosineHead, Head
from vlm_dense.engine.models import bare_model
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.joint_prompts.ivlp import IVLPPrompt
from vlm_dense.registry import HOOKS, MODELS
from vlm_dense.vocabulary.templates import as_templates

PAPER = dict(
    name='PromptSRC',
    title='Self-regulating Prompts: Foundational Model Adaptation without Forgetting',
    venue='ICCV 2023',
    link='https://arxiv.org/abs/2307.06948',
    code='https://github.com/muzairkhattak/PromptSRC',
    licence='MIT',
    idea=(
        'Deep prompts of both towers, with features and logits kept near frozen CLIP; a Gaussian-weighted mean over '
        'the epochs is saved.'
    ),
    trains='tokens in the blocks of both towers, held near frozen CLIP and averaged over epochs',
    published='11 sets, ViT-B/16, 16 shots: base 84.3, new 76.1, mean 80.0',
    contract=(
        '`plain` global feature, templates; Hook that averages over epochs; (K, D); independent tokens; CE + three '
        'distances from frozen CLIP'
    ),
    notes="""
`vlm_dense.PromptAverageHook` keeps the weighted sum in the checkpoints, so that a killed run resumes bit for
bit; the checkpoint of the last epoch has the mean. Checkpoints of the release: `pretrained=...` of the prompt. In a
segmentor the prompts and the loss on the text work, `image_prompt` is left out.

Published by the authors, ViT-B/16, 11 sets, 16 shots: base 84.26, new 76.10, harmonic mean 79.97.
""",
)


_KEY = 'prompt_average'


@MODELS.register_module()
class PromptSRCPrompt(IVLPPrompt, Head):
    """IVLP's prompts with three losses on their distance from frozen CLIP (section 3.2.1).

    With unit features w and f of the prompted towers, and t and g of the frozen ones for the same classes and images::

        loss_scl_text   = text_weight * mean |w - t|
        loss_scl_image  = image_weight * mean |f - g|
        loss_scl_logits = logits_weight * mean p_g log(p_g / p_f)      over all images and classes

    p_g and p_f being the probabilities of frozen and prompted CLIP. t is the mean of the raw embeddings in all
    templates, of unit length. In training the images go through the frozen tower too. In a segmentor or detector, which
    compare no images, the loss on the text is left.

    The aggregation over epochs is :class:`PromptAverageHook`.

    Args:
        class_names, text_tower, image_tower, words, num_contexts, depth, num_tokens, visual_depth, std: See
            :class:`IVLPPrompt`.
        templates: Sentences with ``{}`` for the class name, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`; the release's 60 are 'promptsrc'.
        text_weight, image_weight, logits_weight: Of the losses.
        pretrained: Checkpoint of the official release, a whole model of which the prompts are taken.

    Raises:
        ConfigError: a template without ``{}``.
    """

    ignored_prefixes = (*IVLPPrompt.ignored_prefixes, 'ZS_image_encoder.')  # the release saves the frozen tower too

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        templates: str | Sequence[str] = 'promptsrc',
        text_weight: float = 25.0,
        image_weight: float = 10.0,
        logits_weight: float = 1.0,
        words: str | None = 'a photo of a',
        num_contexts: int | None = 4,
        depth: int = 9,
        num_tokens: int = 4,
        visual_depth: int = 9,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        sizes = dict(num_contexts=num_contexts, depth=depth, num_tokens=num_tokens, visual_depth=visual_depth)
        super().__init__(
            class_names, text_tower, image_tower, words, **sizes, std=std, pretrained=pretrained, init_cfg=init_cfg
        )
        templates = as_templates(templates, 'PromptSRCPrompt')
        sentences = [t.format(name.replace('_', ' ')) for name in self.class_names for t in templates]
        self.register_buffer('template_ids', text_tower.tokenize(sentences), persistent=False)
        self.text_weight, self.image_weight, self.logits_weight = text_weight, image_weight, logits_weight
        self._frozen_text: Tensor | None = None
        self._frozen_images: Tensor | None = None
        self._compared: tuple[Tensor, ...] | None = None

    @property
    def plain(self) -> tuple[str, ...]:
        """In training, the features of the frozen tower."""
        return ('global',) if self.training else ()

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens | None]:
        """Images as they are, and the tokens."""
        self._frozen_images = None if plain is None else F.normalize(plain.global_.float(), dim=-1)
        return super().prompt(images, text, plain)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        if self.training:
            frozen = self.frozen_text(text_tower)
            self._frozen_text = frozen if classes is None else frozen[classes]
        return super().forward(text_tower, image_features, classes)

    def frozen_text(self, text_tower: TextTower) -> Tensor:
        """t, (K, D) unit vectors; the tower keeps what it said of the sentences until its weights change."""
        every = text_tower.encode_tokens(self.template_ids).detach().float()
        return F.normalize(every.unflatten(0, (len(self.class_names), -1)).mean(dim=1), dim=-1)

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), the scaled cosines; in training those of frozen CLIP are kept beside them."""
        found = CosineHead.logits(self, features, text, logit_scale)
        if self.training:
            frozen = logit_scale * self._frozen_images @ self._frozen_text.T
            self._compared = F.normalize(features.global_, dim=-1), found, frozen
        return found

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_scl_text``, and where images were compared ``loss_scl_image`` and ``loss_scl_logits``."""
        text = F.normalize(class_embeddings.float(), dim=-1)
        found = dict(loss_scl_text=self.text_weight * F.l1_loss(text, self._frozen_text))
        if self._compared is not None:
            (images, logits, frozen), self._compared = self._compared, None
            log, target = logits.log_softmax(dim=1), frozen.log_softmax(dim=1)
            found.update(
                loss_scl_image=self.image_weight * F.l1_loss(images, self._frozen_images),
                loss_scl_logits=self.logits_weight * F.kl_div(log, target, reduction='mean', log_target=True),
            )
        return found


# --- the mean over the epochs -----------------------------------------------------------------------------------------


def gaussian_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Weights (E,) of the epochs 1 to E, float64, which sum up to 1."""
    number = torch.arange(1, epochs + 1, dtype=torch.float64)
    return (-0.5 * ((number - mean) / std).square()).softmax(dim=0)


@HOOKS.register_module()
class PromptAverageHook(Hook):
    """At the end of a training, everything that is trained becomes its Gaussian-weighted mean over the epochs.

    Epoch e weighs ``exp(-((e - mean) / std)^2 / 2)``, divided by the sum (section 3.2.2). Training itself goes on from
    the parameters of the epoch. The checkpoint of the last epoch, its validation and its test have the mean; those of
    epochs before have the parameters of the epoch, and the sum so far beside them, so a run resumes bit for bit.

    Args:
        mean, std: Of the Gaussian, in epochs.

    Raises:
        ConfigError: a standard deviation of 0, or a loop in iterations.
        CheckpointError: a run resumed from a checkpoint of another training, or with another number of epochs.
    """

    priority = 'HIGH'  # before checkpoints are saved

    def __init__(self, mean: float, std: float):
        if std <= 0:
            raise ConfigError(f'PromptAverageHook: std must be above 0, found {std}.')
        self.mean, self.std = mean, std
        self.sum: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Compute the weights."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError(
                'PromptAverageHook averages over epochs, and this training counts iterations. Use '
                "train_cfg=dict(type='EpochBasedTrainLoop', ...)."
            )
        self.weights = gaussian_weights(runner.max_epochs, self.mean, self.std)

    @torch.no_grad()
    def after_train_epoch(self, runner: Runner) -> None:
        """Add the epoch to the sum; after the last one, set the parameters to it."""
        weight = float(self.weights[runner.epoch])
        for name, parameter in trained(runner):
            before = self.sum.get(name)
            scaled = weight * parameter.detach().float()
            self.sum[name] = scaled if before is None else before.to(scaled.device) + scaled
        if runner.epoch + 1 == runner.max_epochs:
            for name, parameter in trained(runner):
                parameter.copy_(self.sum[name])
            runner.logger.info(f'PromptAverageHook: the parameters are their mean over {runner.max_epochs} epochs.')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the sum."""
        checkpoint[_KEY] = dict(
            sum={name: value.cpu() for name, value in self.sum.items()}, epochs=runner.max_epochs, epoch=runner.epoch
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up the sum of the run that is resumed."""
        if not runner._resume:
            return
        if _KEY not in checkpoint:
            raise CheckpointError(
                'This run has a PromptAverageHook, and the checkpoint to resume from has no sum over epochs: it is of '
                'another training. To begin with its weights, use --load-from instead of --resume.'
            )
        kept = checkpoint[_KEY]
        if kept['epochs'] != runner.max_epochs:
            raise CheckpointError(
                f'PromptAverageHook: the sum in the checkpoint is weighted for {kept["epochs"]} epochs, and this '
                f'training has {runner.max_epochs}. Resume with the same number.'
            )
        self.sum = dict(kept['sum'])


def trained(runner: Runner) -> list:
    """Names and parameters of what is trained."""
    return [(name, p) for name, p in bare_model(runner).named_parameters() if p.requires_grad]
