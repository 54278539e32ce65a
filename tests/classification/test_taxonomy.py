"""Trees of classes, against the official bookkeeping and metrics of ProTeCt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from vlm_dense.classification.taxonomy import Taxonomy
from vlm_dense.datasets.shapes import shapes_metainfo
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import METRICS

ROOT = Path(__file__).parents[2]


def flat(tree: dict) -> dict[str, list[str]]:
    """Parent -> children of a nested tree with children sorted, names cleaned."""
    found = {}
    for name, below in sorted(tree.items()):
        if below:
            found[name.replace('_', ' ')] = [child.replace('_', ' ') for child in sorted(below)]
            found |= flat(below)
    return found


@pytest.fixture
def case(protect_case):
    official = dict(np.load(protect_case))
    config = json.loads(str(official['config']))
    return official, config, Taxonomy(flat(config['tree']), config['leaf_names'])


def node_scores(official: dict, tree: Taxonomy) -> np.ndarray:
    scores = np.full((len(official['logits']), len(tree.nodes)), np.nan, np.float32)
    for i, parent in enumerate(tree.inner):
        scores[:, tree.below[parent]] = official[f'mid/logits_node{i}']
    return scores


def test_nodes_and_leaves_are_numbered_as_officially(case):
    official, config, tree = case
    assert list(tree.nodes) == config['param_names']
    assert ['root', *(tree.nodes[i] for i in tree.inner[1:])] == config['internal_nodes']
    assert tree.leaves.tolist() == official['tree/leaf_param_index'].tolist()
    for label in range(len(tree.leaves)):
        above = official['tree/codewords'][:, label].nonzero()[0]
        assert list(tree.path(label)) == above.tolist()


def test_cuts_are_the_official_ones(case):
    official, _, tree = case
    for keep, chosen, mapping in zip(
        official['draw/treecut'], official['treecut/label_set'], official['treecut/mapping'], strict=True
    ):
        places, found = tree.cut(keep.astype(bool))
        assert places.tolist() == chosen.nonzero()[0].tolist()
        assert found.tolist() == mapping.tolist()


def measure(tree: Taxonomy, meta: dict, scores, labels, monkeypatch, cuts=None) -> dict:
    metric = METRICS.build(dict(type='vlm_dense.TaxonomyMetric'))
    metric.dataset_meta = meta
    if cuts is not None:
        monkeypatch.setattr(Taxonomy, 'draw_cuts', lambda *_: cuts)
    scores = torch.as_tensor(scores)
    metric.process(None, [dict(pred_scores=s, gt_label=y) for s, y in zip(scores, labels, strict=True)])
    return metric.evaluate(len(labels))


def test_metrics_equal_the_official_ones(case, monkeypatch):
    official, config, tree = case
    cuts = [tree.cut(official['draw/treecut'][row].astype(bool)) for row in config['treecuts_for_mta']]
    meta = dict(taxonomy=flat(config['tree']), classes=config['leaf_names'])
    found = measure(tree, meta, node_scores(official, tree), config['labels'], monkeypatch, cuts)
    wanted = {k: float(official[f'metric/{v}']) for k, v in dict(top1='leaf_accuracy', HCA='hca', MTA='mta').items()}
    assert found == pytest.approx(wanted, abs=1e-4)


def test_drawn_cuts_differ_and_repeat(case):
    *_, tree = case
    cuts, again = tree.draw_cuts(), tree.draw_cuts()
    assert [c[0].tolist() for c in cuts] == [c[0].tolist() for c in again]
    assert len(cuts) <= 25 and len({tuple(places) for places, _ in cuts}) > 5
    for places, mapping in cuts:
        assert all(places[mapping[k]] in tree.path(k) for k in range(len(tree.leaves)))


def test_a_model_that_is_always_right_is_consistent(monkeypatch):
    meta = shapes_metainfo('shape')
    tree = Taxonomy(meta['taxonomy'], meta['classes'])
    assert len(tree.nodes) == 8 + 3
    scores = np.zeros((8, 11))
    for label in range(8):
        scores[label, list(tree.path(label))] = 1
    assert measure(tree, meta, scores, range(8), monkeypatch) == dict(top1=100.0, HCA=100.0, MTA=100.0)
    assert measure(tree, meta, -scores, range(8), monkeypatch)['top1'] == 0.0


def test_trees_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="puts 'a' below 'x' and 'y'"):
        Taxonomy(dict(x=['a'], y=['a']), ['a'])
    with pytest.raises(ConfigError, match='in a circle are'):
        Taxonomy(dict(x=['y'], y=['x']), ['a'])
    with pytest.raises(ConfigError, match=r"leaves that are no class \['b'\]"):
        Taxonomy(dict(x=['a', 'b']), ['a'])
    with pytest.raises(ConfigError, match="The class 'x' is a parent"):
        Taxonomy(dict(x=['a']), ['x', 'a'])
    assert Taxonomy({}, ['only']).nodes == ('only',)
    assert Taxonomy({'': ['b', 'x', 'd'], 'x': ['a']}, ['a', 'b', 'c', 'd']).nodes == ('b', 'x', 'a', 'd', 'c')
    assert Taxonomy(dict(x=['a']), ['b', 'a']).nodes == ('x', 'a', 'b')


def test_scores_of_leaves_alone_are_refused(monkeypatch):
    meta = shapes_metainfo('shape')
    tree = Taxonomy(meta['taxonomy'], meta['classes'])
    with pytest.raises(ConfigError, match='each of the 11 nodes of the tree, found 8'):
        measure(tree, meta, np.zeros((1, 8)), [0], monkeypatch)
    with pytest.raises(DataError, match='has no taxonomy'):
        measure(tree, dict(classes=('a',)), np.zeros((1, 1)), [0], monkeypatch)


def test_the_config_names_all_nodes():
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/shapes_taxonomy.py')
    meta = shapes_metainfo('shape_colour')
    assert tuple(cfg.nodes) == Taxonomy(meta['taxonomy'], meta['classes']).nodes and len(cfg.nodes) == 8 + 64
    assert tuple(cfg.leaves) == meta['classes'] and {k: tuple(v) for k, v in cfg.taxonomy.items()} == meta['taxonomy']
