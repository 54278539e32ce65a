"""SubPT: prompts tuned in the subspace of their early steps; NFL: names that images do not show.

"Understanding and Mitigating Overfitting in Prompt Tuning for Vision-Language Models", IEEE TCSVT 33(9), 2023.

CoOp overfits in the later epochs: its gradient leaves the directions in which it began. SubPT trains CoOp for some
epochs, takes the principal directions of that path, and starts again with gradients that are projected onto them. A
second loss holds names of classes outside the task near their hand-written prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from vlm_dense.clip.loading import read_tensor
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import WiderContext, names_of
from vlm_dense.engine.models import bare_model
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from vlm_dense.vocabulary.templates import read_templates

PAPER = dict(
    name='SubPT and NFL',
    title='Understanding and Mitigating Overfitting in Prompt Tuning for Vision-Language Models',
    venue='IEEE TCSVT 2023',
    link='https://arxiv.org/abs/2211.02219',
    code='https://github.com/machengcheng2016/Subspace-Prompt-Learning',
    licence='none',
    idea=(
        'CoOp learns transferable directions early and overfits late. SubPT runs CoOp for a few epochs, '
        'takes the principal directions of the path of its vectors, and trains again from the first point with each '
        'gradient projected on them. NFL, the novel feature learner, keeps the embeddings of names without images '
        'near their hand-written prompts.'
    ),
    trains="context vectors, in the subspace of CoOp's early steps",
    contract='novel names; OptimWrapper and Hook for the subspace; (K, D); CE + `loss_nfl`',
    notes="""
One run has all stages: `vlm_dense.SubspaceHook` records the path and begins the last stage,
`vlm_dense.SubspaceOptimWrapper` projects. Points and subspace are in the checkpoints, so that `--resume` continues in
any stage. With the release's file of the subspace, `SubspaceHook(subspace='U.pt')`, there is only the last stage.
Without the hook and with the usual `OptimWrapper`, `vlm_dense.SubPTPrompt` is CoOp with NFL. From base to new
(`vlm-dense compare --protocols base-to-new`) NFL looks at the names of the new classes, as in the release, which the
test then asks for.

| shots | epochs of CoOp | directions | epochs in the subspace |
|---|---|---|---|
| 1 | 10 | 5 | 50 |
| 2 | 20 | 10 | 100 |
| 4 | 30 | 10 | 100 |
| 8 | 40 | 10 | 200 |
| 16 | 50 | 10 | 200; ImageNet 50 |

The paper reports that SubPT with NFL beats CoOp and CoCoOp on the mean of 11 data sets (RN50); its repository has no
table.
""",
)


_KEY = 'subpt'


@MODELS.register_module()
class SubPTPrompt(WiderContext):
    """CoOp's prompt with the name at the end and the novel feature learner (NFL).

    ``loss_nfl = weight * (1 - mean_j cos(u_j, t_j))`` over novel names: u_j learned prompts, t_j hand-written ones.

    The subspace is a matter of the optimiser, see :class:`SubspaceHook`; without the hook this is CoOp with NFL.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        novel_names: Names of other classes than those of the images; none: no such loss.
        novel_set: Config of a data set with the novel names, see :func:`~vlm_dense.contract.prompt.names_of`; instead
            of ``novel_names``.
        template: The hand-written prompt, with ``{}`` for the name, several of them, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`; of several t_j is the normalised mean.
        weight: mu.
        num_contexts, words, std: See :class:`LearnedContext`.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Raises:
        ConfigError: a template without ``{}``.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        novel_names: Sequence[str] = (),
        template: str | Sequence[str] = 'a photo of a {}.',
        weight: float = 1.0,
        num_contexts: int | None = None,
        words: str | None = None,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        novel_set: Mapping | None = None,
    ):
        novel_names = novel_names if novel_set is None else names_of(novel_set)
        own = dict(num_contexts=num_contexts, words=words, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, novel_names, **own)
        given = [template] if isinstance(template, str) else template
        templates = [line for one in given for line in ([one] if '{}' in one or ' ' in one else read_templates(one))]
        if not all('{}' in one for one in templates):
            raise ConfigError(f'SubPTPrompt: the template needs a {{}} for the class name, found {template!r}.')
        sentences = [one.format(name.replace('_', ' ')) for name in novel_names for one in templates]
        self._num_templates = len(templates)
        self.register_buffer('template_ids', text_tower.tokenize(sentences), persistent=False)
        self.weight = weight
        self._targets: Tensor | None = None
        self.load_pretrained(pretrained)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D). In training novel names are encoded in the same pass."""
        if self.training and len(self.loss_names):
            self._targets = self.targets(text_tower)
        return super().forward(text_tower, image_features, classes)

    def targets(self, text_tower: TextTower) -> Tensor:
        """t, (N, D) unit vectors; a frozen tower computes them once."""
        found = F.normalize(text_tower.encode_tokens(self.template_ids).float(), dim=-1)
        return F.normalize(found.unflatten(0, (-1, self._num_templates)).mean(dim=1), dim=-1).detach()

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_nfl``, over the novel names; nothing without any."""
        if not len(self.loss_names):
            return {}
        cosine = F.cosine_similarity(self.loss_embeddings.float(), self._targets.float(), dim=-1)
        return dict(loss_nfl=self.weight * (1 - cosine.mean()))


# --- the subspace -----------------------------------------------------------------------------------------------------


def principal_directions(points: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Principal directions of a trajectory.

    Args:
        points: (T, N), one a row.
        rank: r, below T.

    Returns:
        Orthonormal rows (r, N), float32, and the share (r,) of the variance that each explains.
    """
    centred = points.double() - points.double().mean(dim=0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = spread.square()
    return directions[:rank].float(), (variance / variance.sum())[:rank].float()


def project(gradient: Tensor, subspace: Tensor) -> Tensor:
    """``U^T U g``: the part of a gradient of N entries that lies in the span of the rows of U (r, N)."""
    subspace = subspace.to(gradient)
    return (subspace.T @ (subspace @ gradient.flatten())).view_as(gradient)


class _InSubspace:
    """Mixin of optimiser wrappers that project gradients before they are clipped and momentum is added.

    Weight decay acts after the projection, as in the official code, and so leads out of the subspace.

    Attributes:
        subspaces: (parameter, U) of confined parameters; :class:`SubspaceHook` sets it.
    """

    subspaces: Sequence[tuple[nn.Parameter, Tensor]] | None = None

    def step(self, **kwargs: Any) -> None:
        """Project, and step.

        Raises:
            ConfigError: no hook has set the subspace.
        """
        if self.subspaces is None:
            raise ConfigError(
                f'{type(self).__name__} knows no subspace. Add dict(type="vlm_dense.SubspaceHook", ...) to the hooks.'
            )
        for parameter, subspace in self.subspaces:
            parameter.grad = project(parameter.grad, subspace)
        super().step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class SubspaceOptimWrapper(_InSubspace, OptimWrapper):
    """mmengine's ``OptimWrapper``; the gradient of a confined parameter is projected first."""


@OPTIM_WRAPPERS.register_module()
class SubspaceAmpOptimWrapper(_InSubspace, AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``; the gradient of a confined parameter is projected first."""


@HOOKS.register_module()
class SubspaceHook(Hook):
    """Three stages of one training: subspace prompt tuning.

    1. CoOp, with NFL where the prompt has novel names. The vectors are kept after each of the first ``early`` epochs.
    2. The subspace: the first ``rank`` principal directions of these points.
    3. From the vectors after the first epoch, with a new optimiser state and the initial rate, each gradient is
       projected on the subspace by :class:`SubspaceOptimWrapper`. Schedules of this stage begin at epoch ``early``.

    What was kept is in the checkpoint, so a run resumes bit for bit.

    Args:
        early, rank: T and r < T.
        interval: Iterations from point to point, for loops in iterations; default: an epoch.
        subspace: File of the release with U, one tensor (r, N); then there is only stage 3, and ``early`` and ``rank``
            are left out. The prompt's ``pretrained`` is where it begins.

    Raises:
        ConfigError: a rank that the trajectory does not have, a training that ends before stage 3, another optimiser
            wrapper, or no :class:`SubPTPrompt`.
        CheckpointError: a file of another size, or a run resumed from a checkpoint of another training.
    """

    def __init__(
        self,
        early: int | None = None,
        rank: int | None = None,
        interval: int | None = None,
        subspace: str | None = None,
    ):
        if subspace is not None and (early, rank, interval) != (None, None, None):
            raise ConfigError('SubspaceHook: early, rank and interval change nothing when subspace is a file.')
        if subspace is None and not 1 <= (rank or 0) < (early or 0):
            raise ConfigError(
                f'SubspaceHook: the rank must be at least 1 and below the number of points, which is early; found '
                f'rank={rank} and early={early}.'
            )
        if interval is not None and interval < 1:
            raise ConfigError(f'SubspaceHook: interval must be at least 1, found {interval}.')
        self.early, self.rank, self.interval = early, rank, interval
        self.points: list[Tensor] = []
        self.subspace = None if subspace is None else read_tensor(subspace).float()

    # --- the state in the checkpoint ----------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the points, or the subspace."""
        points = torch.stack(self.points) if self.points else torch.empty(0)
        checkpoint[_KEY] = dict(points=points) if self.subspace is None else dict(subspace=self.subspace)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up what the run that is resumed had."""
        if not runner._resume:
            return
        if _KEY not in checkpoint:
            raise CheckpointError(
                'This run has a SubspaceHook, and the checkpoint to resume from has no trajectory: it is of another '
                'training. To begin with its weights, use --load-from instead of --resume.'
            )
        self.points = list(checkpoint[_KEY].get('points', ()))
        self.subspace = checkpoint[_KEY].get('subspace')

    # --- the stages ---------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Find the vectors and check that the stages fit into the training."""
        prompts = [module for module in bare_model(runner).modules() if isinstance(module, SubPTPrompt)]
        if len(prompts) != 1:
            raise ConfigError(f'SubspaceHook: expected one SubPTPrompt in the model, found {len(prompts)}.')
        if not isinstance(runner.optim_wrapper, _InSubspace):
            raise ConfigError(
                f'SubspaceHook: the gradients of {type(runner.optim_wrapper).__name__} are not projected. Use '
                'optim_wrapper=dict(type="vlm_dense.SubspaceOptimWrapper", ...), with mixed precision '
                '"vlm_dense.SubspaceAmpOptimWrapper" in the config and not --amp.'
            )
        self.prompt = prompts[0]
        if self.early is not None:
            unit, length = ('epochs', runner.max_epochs) if self.interval is None else ('iterations', runner.max_iters)
            end = self.early * (self.interval or 1)
            if length <= end:
                raise ConfigError(
                    f'SubspaceHook: the trajectory takes {end} {unit} and the training has {length}. Train longer, or '
                    'lower early.'
                )
        self._confine(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep a point every ``interval`` iterations."""
        if self.interval is not None and self.every_n_train_iters(runner, self.interval):
            self._keep(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep a point."""
        if self.interval is None:
            self._keep(runner)

    def _keep(self, runner: Runner) -> None:
        if self.subspace is not None:
            return
        vectors = self.prompt.ctx
        self.points.append(vectors.detach().flatten().cpu().clone())
        if len(self.points) < self.early:
            return
        self.subspace, shares = principal_directions(torch.stack(self.points), self.rank)
        runner.logger.info(
            f'SubPT: {self.rank} directions explain {100 * shares.sum():.1f} % of the variance of {self.early} points; '
            'training continues in their span from the first point.'
        )
        vectors.data.copy_(self.points[0].view_as(vectors))
        self.points = []
        runner.optim_wrapper.optimizer.state.pop(vectors, None)
        for group in runner.optim_wrapper.optimizer.param_groups:
            if any(parameter is vectors for parameter in group['params']):
                group['lr'] = group.get('initial_lr', group['lr'])
        self._confine(runner)

    def _confine(self, runner: Runner) -> None:
        vectors = self.prompt.ctx
        runner.optim_wrapper.subspaces = []
        if self.subspace is None:
            return
        if self.subspace.dim() != 2 or self.subspace.shape[1] != vectors.numel():
            raise CheckpointError(
                f'SubspaceHook: expected a subspace of {vectors.numel()} columns, as many as the vectors have entries; '
                f'found {tuple(self.subspace.shape)}.'
            )
        runner.optim_wrapper.subspaces = [(vectors, self.subspace.to(vectors.device))]
