"""TPT: the context is tuned on every test image by itself.

"Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models", NeurIPS 2022, section 3.

For one test image TPT makes many random views and keeps the most confident ones. One step of gradient
descent on the text context lowers the entropy of their mean prediction. The plain view is then classified, and the
context is reset before the next image.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import OPTIMIZERS as ROOT_OPTIMIZERS
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.contract.roles import TestTimeAdaptation
from vlm_dense.errors import ConfigError
from vlm_dense.methods.test_time.augmix import augmix
from vlm_dense.registry import MODELS, TRANSFORMS

PAPER = dict(
    name='TPT',
    title='Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models',
    venue='NeurIPS 2022',
    link='https://arxiv.org/abs/2209.07511',
    code='https://github.com/azshue/TPT',
    licence='MIT',
    idea='The context is tuned on the views of each test image, by the entropy of their mean prediction.',
    trains='the context, for each test image again',
    published='RN50: ImageNet 60.7, V2 54.7, Sketch 35.1, A 26.7, R 59.1',
    contract='views of one image; that of the prompt; entropy of the mean',
)


@MODELS.register_module()
class TPT(TestTimeAdaptation):
    """Makes the views of an image agree: the entropy of their mean prediction is minimised over the context.

    Only the most confident views count (section 3.2), those of the first step. The context is the text prompt's, for
    CoCoOp that of the plain view, and what is tuned is a copy of it. Image features cost no gradient.

    Args:
        selection: rho; int(N * rho) of the N views are kept.
        steps: T, with the same views.
        optimizer: Built again for each image.

    Raises:
        ConfigError: a text prompt without learned context, or a share of the views that keeps none.
    """

    def __init__(self, selection: float = 0.1, steps: int = 1, optimizer: dict | None = None):
        super().__init__()
        self.selection = selection
        self.steps = steps
        self.optimizer = optimizer or dict(type='AdamW', lr=5e-3, weight_decay=0.01)

    def logits(self, model: nn.Module, views: Tensor) -> Tensor:
        """Logits (1, K) of the plain view under the tuned context; see :class:`TestTimeAdaptation`."""
        prompt = model.text_prompt
        if not isinstance(prompt, LearnedContext):
            raise ConfigError(
                f'TPT tunes a learned context, found {type(prompt).__name__}. Use vlm_dense.CoOpPrompt with '
                "words='a photo of a', or what CoOp or CoCoOp has learned."
            )
        with torch.no_grad():
            features = model.image_features(views)
            context = self.tune(model, features, prompt.context(features.global_[:1]))
            return model.logits(features[:1], prompt.encode(model.text_encoder, context))

    def tune(self, model: nn.Module, features: ImageFeatures, context: Tensor) -> Tensor:
        """Another context, after ``steps`` steps from ``context``, for the features of N views."""
        context = context.detach().clone().requires_grad_()
        optimizer = ROOT_OPTIMIZERS.build(dict(self.optimizer, params=[context]))
        chosen = None
        for _ in range(self.steps):
            with torch.enable_grad():
                text = model.text_prompt.encode(model.text_encoder, context)
                if chosen is None:
                    chosen = self.confident(model.logits(features, text.detach()))
                loss = mean_entropy(model.logits(features[chosen], text))
                optimizer.zero_grad()
                loss.backward(inputs=[context])
            optimizer.step()
        return context.detach()

    def confident(self, logits: Tensor) -> Tensor:
        """Indices of the views of lowest entropy, of logits (N, K)."""
        count = int(len(logits) * self.selection)
        if not count:
            raise ConfigError(f'TPT: selection={self.selection} of {len(logits)} views keeps none; raise either.')
        return entropy(logits).argsort()[:count]


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits (N, K), in nats, (N,)."""
    log = logits.log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1)


def mean_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean probabilities of N views (section 3.1, equation 2)."""
    log = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    log = log.clamp(min=torch.finfo(log.dtype).min)
    return -(log.exp() * log).sum()


@TRANSFORMS.register_module()
class TPTViews(BaseTransform):
    """The plain view of an image, and random crops of it (section 3.2); ``img`` becomes (N, S, S, 3).

    What is drawn follows from ``seed`` and the pixels, whatever the order of images and the number of workers.
    The plain view is the image resized (bicubic) and cropped at the centre, the others are random crops of 8 to 100 %
    of the area (bilinear), half of them mirrored. Values stay 0 to 255, BGR; float32 with ``mix``, else uint8.

    Args:
        num_views: N, the plain one included.
        size: S.
        mix: AugMix on the random views; for fine-grained sets, not for ImageNet and its variants.
        severity: Of AugMix.
        seed: Other seeds draw other views.
    """

    def __init__(self, num_views: int = 64, size: int = 224, mix: bool = False, severity: float = 1.0, seed: int = 0):
        self.num_views = num_views
        self.mix = mix
        self.severity = severity
        self.seed = seed
        self.plain = v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC), v2.CenterCrop(size)])
        self.crop = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])

    def transform(self, results: dict) -> dict:
        """Make the views."""
        pixels = np.ascontiguousarray(results['img'][..., ::-1])
        image = Image.fromarray(pixels)
        seed = zlib.crc32(pixels.tobytes(), self.seed)
        draw = np.random.RandomState(seed)
        views = [np.asarray(self.plain(image))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(1, self.num_views):
                crop = self.crop(image)
                views.append(augmix(crop, self.severity, draw) if self.mix else np.asarray(crop))
        views = np.stack([view.astype(np.float32) for view in views] if self.mix else views)
        results['img'] = np.ascontiguousarray(views[..., ::-1])
        results['img_shape'] = views.shape[1:3]
        return results

    def __repr__(self) -> str:
        own = ', '.join(f'{name}={getattr(self, name)}' for name in ('num_views', 'mix', 'severity', 'seed'))
        return f'{type(self).__name__}({own})'
