"""SVL-Adapter: a classifier on a self-supervised encoder of the task's own images, mixed with CLIP.

CLIP's features are weak on images far from web images. SVL-Adapter trains a second encoder by self-supervision
on the unlabelled images of the task, and a small classifier on its features by the few labels. The logits of this
classifier and of zero-shot CLIP are mixed, by a weight from validation or from CLIP's mean confidence.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.classification.contrastive import build_encoder
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.loading import allowed_in_pickles, check_fit
from vlm_dense.contract.preparation import Prepared, read_batches
from vlm_dense.contract.roles import CosineHead
from vlm_dense.engine.checkpoints.fit import load_from_local
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='SVL-Adapter',
    title='SVL-Adapter: Self-Supervised Adapter for Vision-Language Pretrained Models',
    venue='BMVC 2022',
    link='https://arxiv.org/abs/2210.03794',
    code='https://github.com/omipan/svl_adapter',
    licence='none',
    idea=(
        'A second encoder is trained by self-supervision (SimCLR) on images of the task without labels; a small '
        'classifier on its frozen features is trained on a few labels, and its logits are mixed with those of '
        'zero-shot CLIP.'
    ),
    trains='an encoder by self-supervision, and a classifier on its features',
    contract='second encoder; unlabelled images; mixture of two classifiers; CE; NT-Xent before',
    variants={
        'svl_adapter_star': dict(trains="as svl_adapter, mixed by CLIP's confidence on the test images"),
    },
    notes="""
`svl_adapter_ssl_eurosat.py`, `svl_adapter_eurosat.py` and `svl_adapter_star_eurosat.py` hold the recipe of the paper.
The encoder is one of timm's; checkpoints of the official first stage load with `head=dict(pretrained=FILE)`. It gets
the same images as CLIP's tower, of the same size and normalisation; the official code has separate ones for
each. SVL-Adapter* reads unlabelled test images.

The paper reports about 10 points more than earlier adapters on its sets far from web photos; figures of each set are
in the authors' spreadsheet and not repeated here.
""",
)


_READS = dict(confidence='unlabelled', search='search')
_STEPS = 20  # of the search of alpha, from 0 to 1


@MODELS.register_module()
class SVLAdapter(Prepared, CosineHead):
    """``alpha * mlp(h) + (1 - alpha) * scale * cos(f, T)`` (section 3.2); in training ``mlp(h)`` alone.

    h is the feature of a second encoder, which ``vlm_dense.ContrastivePretraining`` trained on images of the task and
    which stays frozen. It is given the image as CLIP's tower is, at the same size and normalisation.

    How alpha (the paper's 1 - lambda) is found:

    - a number: fixed; the official code has 0.2
    - ``'confidence'`` (SVL-Adapter*): before training, 1 minus the mean of CLIP's greatest probability over the images
      ``unlabelled``. The paper takes the test images, without labels: the method is then transductive.
    - ``'search'``: after training, the first of 0, 0.05, .., 1 that classifies most images of ``search``, and 0.2 until
      then

    Args:
        class_names: The classifier's; give K.
        encoder: Name in timm, or the config of a module that makes (B, C) of images and has ``num_features``.
        pretrained: Checkpoint of the contrastive training, this project's or the official one; or weights of the
            encoder alone. A config of a module loads its own.
        hidden_channels: Of the MLP.
        alpha: See above.
        raw_confidence: Do not normalise CLIP's image feature for the confidence, as the official code does for RN50.

    Attributes:
        mlp: The classifier, all that is trained.
        alpha: Its weight.
        search_accuracy: Percent of the last search's images, for each alpha.

    Raises:
        ConfigError: an alpha that cannot be, an encoder without weights, or data that are not read.
        CheckpointError: no such file, one that is no checkpoint, or weights of another encoder; names the shapes.
    """

    features = ('global', 'images')

    def __init__(
        self,
        class_names,
        encoder: str | dict = 'resnet50',
        pretrained: str | None = None,
        hidden_channels: int = 256,
        alpha: float | str = 'confidence',
        raw_confidence: bool = False,
    ):
        super().__init__()
        fixed = not isinstance(alpha, str)
        if not (0 <= alpha <= 1 if fixed else alpha in _READS) or raw_confidence and alpha != 'confidence':
            raise ConfigError(
                "SVLAdapter: alpha is a number from 0 to 1, 'confidence' or 'search', and raw_confidence belongs to "
                f"'confidence'; found {alpha!r} and {raw_confidence}."
            )
        if isinstance(encoder, str) and pretrained is None or not isinstance(encoder, str) and pretrained is not None:
            raise ConfigError(
                'SVLAdapter: an encoder by name needs the weights of its contrastive training, pretrained=FILE, and a '
                f'config of a module loads its own; found encoder={encoder!r} and pretrained={pretrained!r}.'
            )
        self.enc = build_encoder(encoder) if isinstance(encoder, str) else MODELS.build(encoder)
        if pretrained is not None:
            self._load(pretrained)
        self.enc.requires_grad_(False).eval()
        self.mlp = nn.Sequential(
            nn.Linear(self.enc.num_features, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, len(class_names))
        )
        self.rule, self.raw_confidence = None if fixed else alpha, raw_confidence
        self.transductive = self.rule == 'confidence'
        self.register_buffer('alpha', torch.tensor(alpha if fixed else 0.2))
        self.prepared = self.rule != 'confidence'
        self.search_accuracy: Tensor | None = None

    def _load(self, path: str) -> None:
        with allowed_in_pickles([Namespace]):  # the official code keeps its command line beside the weights
            checkpoint = load_from_local(path)
        weights = checkpoint.get('state_dict', checkpoint)
        own = {key.removeprefix('enc.'): value for key, value in weights.items() if key.startswith('enc.')}
        own = own or {key: value for key, value in weights.items() if not key.startswith('fc.')}
        check_fit(own, {key: value.shape for key, value in self.enc.state_dict().items()}, path)
        self.enc.load_state_dict(own)

    def train(self, mode: bool = True) -> SVLAdapter:
        """As in torch, but the encoder stays in eval mode."""
        super().train(mode)
        self.enc.eval()
        return self

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K); in training those of the MLP, (B, K)."""
        own = self.adapter_logits(features.images)
        if self.training:
            return own
        self.check_prepared()
        clip = super().logits(features, text, logit_scale)
        return self.mix(own if clip.dim() == 2 else own[:, None], clip, self.alpha)

    def adapter_logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the MLP for images (B, 3, H, W)."""
        with torch.no_grad():
            found = self.enc(images)
        return self.mlp(found.float())

    @staticmethod
    def mix(own: Tensor, clip: Tensor, alpha: Tensor | float) -> Tensor:
        """The weighted sum."""
        return alpha * own + (1 - alpha) * clip

    # --- alpha ----------------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Set alpha by CLIP's confidence, if this is the rule.

        Raises:
            ConfigError: data that the rule needs are not there, or data that it does not read are.
        """
        needed = _READS.get(self.rule)
        idle = sorted(set(data) & set(_READS.values()) - {needed})
        if idle:
            raise ConfigError(
                f'SVLAdapter: with alpha={self.rule or float(self.alpha)!r} the data {idle} are not read. Leave them '
                'out of PrepareHook, or change alpha.'
            )
        if needed is not None:
            loader = self.loader(data, needed)
            if self.rule == 'confidence':
                self.alpha.fill_(1 - self.confidence(model, loader))
                self.prepared = True
                print_log(f'SVLAdapter: alpha is {self.alpha:.4f} by the confidence of CLIP.', logger='current')

    @torch.no_grad()
    def confidence(self, model: nn.Module, loader: DataLoader) -> float:
        """Mean over images of CLIP's greatest probability.

        Args:
            model: The classifier, in eval mode.
            loader: The images; labels are not read.
        """
        text, scale = (
            model.text_side.classifier_weights(),
            model.text_encoder.logit_scale.exp(),
        )
        total = count = 0
        for features, _ in read_batches(model, loader, labelled=False):
            image = features.global_ if self.raw_confidence else F.normalize(features.global_, dim=-1)
            total += (scale * image @ text.T).softmax(dim=-1).amax(dim=-1).double().sum().item()
            count += len(image)
        return total / count

    def finish(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Search alpha, if this is the rule."""
        if self.rule == 'search':
            self.search(model, self.loader(data, 'search'))

    @torch.no_grad()
    def search(self, model: nn.Module, loader: DataLoader) -> None:
        """Set alpha to the first that classifies most images of a data set.

        Args:
            model: The classifier, in eval mode.
            loader: The labelled images.
        """
        text, scale = (
            model.text_side.classifier_weights(),
            model.text_encoder.logit_scale.exp(),
        )
        alphas = [step / _STEPS for step in range(_STEPS + 1)]
        right, count = torch.zeros(len(alphas), dtype=torch.int64), 0
        for features, labels in read_batches(model, loader):
            own, clip = self.adapter_logits(features.images), super().logits(features, text, scale)
            count += len(labels)
            for number, alpha in enumerate(alphas):
                right[number] += int((self.mix(own, clip, alpha).argmax(dim=-1) == labels).sum())
        self.search_accuracy = 100 * right.double() / count
        self.alpha.fill_(alphas[int(right.argmax())])
        print_log(
            f'SVLAdapter: alpha {self.alpha:.2f} classifies {self.search_accuracy.max():.2f} % of {count} images, most '
            f'of {len(alphas)} values.',
            logger='current',
        )
