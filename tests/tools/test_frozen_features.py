"""The benchmark of frozen features: equal numbers. What it measures of time is for people, no test."""

from __future__ import annotations

from frozen_features import METHODS, benchmark


def test_features_train_the_same():
    told = []
    found = benchmark('tiny-rn', images=48, size=64, batch_size=16, epochs=2, say=told.append)
    assert set(found) == set(METHODS) and len(told) == len(METHODS)
    for name, figures in found.items():
        assert figures['difference'] < 1e-5, name
        assert figures['speedup'] > 0, name
