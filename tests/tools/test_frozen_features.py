"""The benchmark of frozen features: equal numbers, and faster by far even for the smallest tower."""

from __future__ import annotations

from frozen_features import METHODS, benchmark


def test_features_train_the_same_in_a_fraction_of_the_time():
    told = []
    found = benchmark('tiny-rn', images=48, size=64, batch_size=16, epochs=2, say=told.append)
    assert set(found) == set(METHODS) and len(told) == len(METHODS)
    for name, figures in found.items():
        assert figures['difference'] < 1e-5, name
        assert figures['speedup'] > 3, name  # 15 and more where nothing else runs
