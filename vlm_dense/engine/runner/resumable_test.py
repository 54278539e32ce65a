"""A test that resumes where it was stopped."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.runner import TestLoop, autocast

from vlm_dense.clip.digest import weights_digest
from vlm_dense.engine.files import lock
from vlm_dense.engine.models import bare_model
from vlm_dense.engine.registry import LOOPS

_HEAD = struct.Struct('<QI')  # length and check sum of a record


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's test loop for models that spend seconds on an image, as with test-time adaptation.

    Predictions are written to ``work_dir/test_progress_RANK.bin`` batch by batch. Started again in the same
    ``work_dir`` with the same config of model and data, the same order of images, the same weights and the same
    precision, the test resumes after the last complete batch; else it starts again. Its metrics equal those of an
    uninterrupted one wherever predictions depend on the image alone, and where a part of the model says what the images
    before have left behind: what ``changes()`` of such a module gives after a batch is written too, and is given to its
    ``replay``. The file is removed at the end. Metrics get no ``data_batch`` for what was predicted before.
    """

    def run(self) -> dict:
        """Test; returns the metrics."""
        runner = self.runner
        runner.call_hook('before_test')
        runner.call_hook('before_test_epoch')
        runner.model.eval()
        path = Path(runner.work_dir) / f'test_progress_{runner.rank}.bin'
        complaint = f'Another test runs in {runner.work_dir}. Wait for it, or name another folder by --work-dir.'
        with lock(path.with_name(f'.test_{runner.rank}.lock'), complaint):
            metrics = self._test(path)
        runner.call_hook('after_test_epoch', metrics=metrics)
        runner.call_hook('after_test')
        path.unlink()
        return metrics

    def _test(self, path: Path) -> dict:
        done = self._read(path)
        self._streams = [module for module in bare_model(self.runner).modules() if hasattr(module, 'replay')]
        for samples, changes in done:
            self.evaluator.process(data_samples=samples, data_batch=None)
            for module, change in zip(self._streams, changes, strict=True):
                module.replay(change)
        if done:
            print_log(f'{len(done)} batches were tested before; the test resumes after them.', logger='current')
        with self._without(sum(len(samples) for samples, _ in done)), path.open('ab') as self._file:
            for index, batch in enumerate(self.dataloader, len(done)):
                self.run_iter(index, batch)
        return self.evaluator.evaluate(len(self.dataloader.dataset))

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Test one batch and write down what was predicted."""
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = self.runner.model.test_step(data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        changes = [module.changes() for module in self._streams]
        self._file.write(_record([[sample.cpu().to_dict() for sample in outputs], changes]))
        self._file.flush()
        self.runner.call_hook('after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)

    @contextmanager
    def _without(self, count: int) -> Iterator[None]:
        """Make the sampler skip its first samples."""
        batches = self.dataloader.batch_sampler
        sampler, batches.sampler = batches.sampler, list(batches.sampler)[count:]
        try:
            yield
        finally:
            batches.sampler = sampler

    def _read(self, path: Path) -> list[tuple[list[dict], list]]:
        """Whole batches: predictions, and what they left behind. Just these stay in the file, after what is tested."""
        first = _record(self._what_is_tested())
        content = path.read_bytes() if path.exists() else b''
        if not content.startswith(first):
            path.write_bytes(first)
            return []
        done, end = [], len(first)
        while len(content) >= end + _HEAD.size:
            length, check = _HEAD.unpack_from(content, end)
            data = content[end + _HEAD.size : end + _HEAD.size + length]
            if len(data) < length or zlib.crc32(data) != check:  # the process ended while it wrote
                break
            done.append(torch.load(io.BytesIO(data), map_location='cpu', weights_only=True))
            end += _HEAD.size + length
        path.write_bytes(content[:end])
        return done

    def _what_is_tested(self) -> str:
        cfg, weights = self.runner.cfg, weights_digest(bare_model(self.runner))
        order = zlib.crc32(repr(list(self.dataloader.batch_sampler.sampler)).encode())
        return f'{cfg.get("model")} {cfg.get("test_dataloader")} {self.runner.world_size} {self.fp16} {weights} {order}'


def _record(content) -> bytes:
    if isinstance(content, str):
        data = content.encode()
    else:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
    return _HEAD.pack(len(data), zlib.crc32(data)) + data
