"""RePrompt: the nearest labelled images shape the visual prompts, the classifier and the loss.

"Retrieval-Enhanced Visual Prompt Learning for Few-shot Classification", arXiv 2306.02243. The paper has no public
code; the equations here are a reconstruction from its abstract, with Tip-Adapter's cache and RetroPrompt's weights.

The features of the few training images are a store; for each image its nearest neighbours are looked up. What was
found shapes the tokens of the image tower, a cache beside the zero-shot logits, and the weight of hard examples in
the loss. The authors published no code, so the equations here are a reconstruction in the spirit of the paper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.contract.preparation import check_classes_present
from vlm_dense.contract.roles import ImagePrompt, Loss, Step, labels_of
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.adapters.tip_adapter_f import TipAdapterF
from vlm_dense.methods.visual_prompts.vpt import check_vit
from vlm_dense.registry import MODELS

PAPER = dict(
    name='RePrompt',
    title='Retrieval-Enhanced Visual Prompt Learning for Few-shot Classification',
    venue='arXiv 2023',
    link='https://arxiv.org/abs/2306.02243',
    idea=(
        'The labelled images nearest to an image shape its visual prompts, a cache classifies beside CLIP, and images '
        'with neighbours of other classes weigh more in the loss.'
    ),
    trains='tokens in the image tower, a layer that adds what was retrieved, the keys of the cache',
    contract='support set, `training_batch`; tokens per image; cache logits; weighted CE',
    notes="""
**A reconstruction.** The paper has no public code and only its abstract was available: the equations in
`vlm_dense/methods/visual_prompts/reprompt.py` follow it in spirit, with Tip-Adapter's cache and RetroPrompt's
weights. Compare them with the paper before results are reported under its name. No published figure is quoted.

`support` has the images of training without augmentation; `search` (validation images) chooses alpha and beta after
training, as in Tip-Adapter-F, and may be left out.
""",
)


@MODELS.register_module()
class RePrompt(ImagePrompt, Loss, TipAdapterF):
    """Prompts from retrieved features, Tip-Adapter-F's classifier and a loss that weighs hard images more.

    The database holds the unit features k_i of the labelled images from the plain tower. For a query q from the same
    tower, in training without the image itself, the k nearest have the weights ``w = softmax(q k / tau)``; they give
    the feature ``r = sum w k`` and the probabilities ``p_knn`` of the classes.

    - prompts of block l: ``E_l + proj(r)``, M tokens between class token and patches
    - logits: ``scale * cos(f, t) + alpha * exp(-beta (1 - f a)) V``; a are trained, begin as the database and count
      with unit length
    - loss: mean of ``(1 + gamma * -log max(p_knn(label), least)) * cross-entropy``
    - with ``mix``: logarithm of ``mix * p_knn + (1 - mix) * softmax(logits)`` in a test

    From data: ``support``, the labelled images without augmentation. Images are told apart by their ``img_path``.
    ``search``, if given, is what alpha and beta are searched on after training.

    Args:
        class_names, image_tower: The classifier's; the tower is a ViT.
        shots: Images of a class in the database.
        num_tokens: M.
        depth: Blocks with prompts of their own, at most those of the tower.
        num_neighbours: k.
        tau: Temperature of the weights.
        gamma, least: Of the loss.
        mix: See above.
        alpha, beta: Of the classifier.
        std: Standard deviation of the initial prompts, and of ``proj``.
        **kwargs: ``search_scale``, ``search_step``, see :class:`~vlm_dense.methods.adapters.TipAdapter`.

    Attributes:
        prompts: E, (depth, M, C).
        proj: Linear layer from D to C, that all blocks and tokens share.
        keys: a, (N, D).
        database: k, (N, D); ``values`` are the labels.

    Raises:
        ConfigError: a tower that is no ViT, or numbers that cannot be.
    """

    plain = ('global',)

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        shots: int = 16,
        num_tokens: int = 4,
        depth: int = 12,
        num_neighbours: int = 8,
        tau: float = 0.05,
        gamma: float = 0.5,
        least: float = 1e-3,
        mix: float = 0.0,
        alpha: float = 1.0,
        beta: float = 5.5,
        std: float = 0.02,
        **kwargs: Any,
    ):
        check_vit(image_tower, type(self).__name__)
        super().__init__(class_names, image_tower, shots=shots, passes=1, alpha=alpha, beta=beta, **kwargs)
        depth = min(depth, len(image_tower.blocks))
        if num_tokens < 1 or depth < 1 or not 0 <= mix <= 1 or tau <= 0 or not 0 < least <= 1:
            raise ConfigError(
                'RePrompt: expected num_tokens and depth from 1, mix from 0 to 1, tau above 0 and least above 0, up to '
                f'1; found {num_tokens}, {depth}, {mix}, {tau} and {least}.'
            )
        if not 1 <= num_neighbours < len(self.keys):
            raise ConfigError(
                f'RePrompt: num_neighbours must be at least 1 and below the {len(self.keys)} images of the database, '
                f'found {num_neighbours}.'
            )
        self.num_neighbours, self.tau, self.gamma, self.least, self.mix = num_neighbours, tau, gamma, least, mix
        self.prompts = nn.Parameter(std * torch.randn(depth, num_tokens, image_tower.width))
        self.proj = nn.Linear(image_tower.embed_dim, image_tower.width)
        nn.init.normal_(self.proj.weight, std=std)
        nn.init.zeros_(self.proj.bias)
        self.register_buffer('database', torch.zeros_like(self.keys))
        self.register_buffer('identity', torch.zeros(len(self.keys), dtype=torch.int64))
        self._samples: list | None = None
        self._knn: Tensor | None = None

    # --- retrieval ------------------------------------------------------------------------------------------------

    def training_batch(self, data_samples: list) -> None:
        """The samples of the images that the next call of :meth:`prompt` is given."""
        self._samples = data_samples

    def retrieve(self, query: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest images of the database.

        Args:
            query: Features (B, D) of the plain tower.
            own: int64 (B,), identities of images that are left out, see :func:`identity_of`.

        Returns:
            Indices (B, k), the nearest first; r (B, D); p_knn (B, K).
        """
        cosines = F.normalize(query.float(), dim=-1) @ self.database.T
        hidden = (self.values.sum(dim=1) == 0).expand_as(cosines)  # rows that no image fills
        if own is not None:
            hidden = hidden | (own[:, None] == self.identity)
        top, rows = cosines.masked_fill(hidden, -math.inf).topk(self.num_neighbours, dim=-1)
        weights = (top / self.tau).softmax(dim=-1)
        return rows, *(torch.einsum('bk,bkd->bd', weights, table[rows]) for table in (self.database, self.values))

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens]:
        """Images as they are, and tokens of each."""
        self.check_prepared()
        samples, self._samples = self._samples, None
        own = None if samples is None else torch.stack([identity_of(s) for s in samples]).to(images.device)
        _, feature, self._knn = self.retrieve(plain.global_, own)
        tokens = self.prompts[:, None] + self.proj(feature)[:, None]  # (J, B, M, C)
        return images, PromptTokens(tokens[0], tuple(tokens[1:]), place='front', through_ln_pre=False)

    # --- logits and loss ------------------------------------------------------------------------------------------

    def affinity(self, features: Tensor) -> Tensor:
        """Cosines (B, N) of features (B, D) and the trained keys."""
        return F.normalize(features, dim=-1) @ F.normalize(self.keys, dim=-1).T

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K)."""
        logits = super().logits(features, text, logit_scale)
        if self.training or not self.mix:
            return logits
        return (self.mix * self._knn + (1 - self.mix) * logits.softmax(dim=-1)).log()

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_ce``, weighted."""
        labels = step.labels()
        right = self._knn.gather(1, labels[:, None])[:, 0].clamp(min=self.least)
        weights = 1 - self.gamma * right.log()
        return dict(loss_ce=(weights * F.cross_entropy(step.logits, labels, reduction='none')).mean())

    # --- the database ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fill(self, model: nn.Module, loader: DataLoader) -> None:
        """Fill the database and the first keys from a data set.

        Raises:
            DataError: a class without image, more images than there is room for, or fewer than are retrieved.
        """
        features, labels, own = [], [], []
        for batch in loader:
            batch = model.data_preprocessor(batch)
            features.append(model.backbone.encode(batch['inputs'], self.plain).global_.float())
            labels.append(labels_of(batch['data_samples'], len(self.class_names)))
            own += [identity_of(sample) for sample in batch['data_samples']]
        count, room = len(own), len(self.keys)
        if not self.num_neighbours < count <= room:
            raise DataError(
                f'RePrompt has room for {self.shots} images of each of {len(self.class_names)} classes, {room} in all, '
                f'and retrieves {self.num_neighbours} others of each image; its support set has {count}. Set shots to '
                'that of the data, or lower num_neighbours.'
            )
        features, labels = F.normalize(torch.cat(features), dim=-1), torch.cat(labels)
        check_classes_present(labels, self.class_names, 'RePrompt: the support set')
        self._fill(features, F.one_hot(labels, len(self.class_names)).float())
        self.database.zero_()
        self.database[:count] = features
        self.identity[:count] = torch.stack(own).to(self.identity.device)

    def finish(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Search alpha and beta on ``search``, if it is given."""
        if 'search' in data:
            super().finish(model, data)


def identity_of(sample) -> Tensor:
    """An int64 scalar that follows from the path of an image.

    Raises:
        DataError: a sample without path.
    """
    path = sample.get('img_path')
    if path is None:
        raise DataError(
            "RePrompt tells images apart by img_path, and a sample has none. Keep 'img_path' among the meta_keys of "
            'PackClsInputs.'
        )
    digest = hashlib.blake2b(str(path).encode(), digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, 'big', signed=True))
