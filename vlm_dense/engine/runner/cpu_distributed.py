"""Several processes on a machine without GPU: DDP and FSDP over gloo, and SyncBN, which torch has on GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlm_dense.engine.registry import MODEL_WRAPPERS


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class CPUSyncBatchNorm(_BatchNorm):
    """SyncBatchNorm for tensors on the CPU: statistics over the batches of all processes.

    No subclass of ``nn.SyncBatchNorm``, which DDP refuses on the CPU.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (N, C, ...)."""
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        count = x.new_tensor([x.numel() / x.shape[1]])
        total = _SumOverProcesses.apply(torch.cat([x.sum(dims), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centred = x - mean.view(shape)
        var = _SumOverProcesses.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, float(momentum))
                self.running_var.lerp_(var * count / (count - 1).clamp(min=1), float(momentum))
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y


def _on_cpus(module: nn.Module) -> nn.Module:
    """The module with :class:`CPUSyncBatchNorm` instead of torch's layers; parameters and buffers are the same."""
    if isinstance(module, nn.SyncBatchNorm):
        layer = CPUSyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        layer._parameters, layer._buffers = module._parameters, module._buffers
        return layer.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _on_cpus(child))
    return module


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DDP for a model on the CPU.

    Args:
        module: The model. Its SyncBatchNorm layers become :class:`CPUSyncBatchNorm`.
        device_ids: Ignored; mmengine gives the rank of the process, which is no GPU here.
        **kwargs: As in :class:`mmengine.model.MMDistributedDataParallel`.
    """

    def __init__(self, module: nn.Module, device_ids=None, **kwargs: Any):
        super().__init__(module=_on_cpus(module), **kwargs)


@MODEL_WRAPPERS.register_module()
class CPUFullyShardedDataParallel(MMFullyShardedDataParallel):
    """mmengine's FSDP for a model on the CPU.

    Args:
        module: The model.
        device_id: Ignored; mmengine gives the rank of the process, which is no GPU here.
        **kwargs: As in :class:`mmengine.model.MMFullyShardedDataParallel`.
    """

    def __init__(self, module: nn.Module, device_id=None, **kwargs: Any):
        super().__init__(module=module, device_id=torch.device('cpu'), **kwargs)
