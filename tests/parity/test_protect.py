"""ProTeCt equals the official code: the tree, cuts, both losses, three steps, and the metrics of its paper."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from official import Case, array, inputs
from text_prompt_case import classifier, labelled, set_parameters

from vlm_dense.classification import Taxonomy
from vlm_dense.contract.roles import Step
from vlm_dense.methods.text_prompts.protect import ProTeCtLoss
from vlm_dense.registry import METRICS


class Given(ProTeCtLoss):
    """Cuts by the keep bits of the case."""

    rows: list

    def draw(self):
        return self.rows.pop(0).tolist()


def clean(name: str) -> str:
    """Names of nodes as the official code reads them."""
    return re.sub(r'\d', '', name).removesuffix('_').replace('_', ' ')


def children_of(tree: dict, parent: str = '') -> dict[str, list[str]]:
    """Parent -> children of a nested tree, children sorted, that of the root first."""
    found = {parent: [clean(child) for child in sorted(tree)]}
    for name, below in sorted(tree.items()):
        if below:
            found |= children_of(below, clean(name))
    return found


def check_tree(case: Case, tree: Taxonomy) -> None:
    """The official matrices, made of paths."""
    nodes, leaves, inner = range(len(tree.nodes)), range(len(tree.leaves)), tree.inner
    paths = [tree.path(label) for label in leaves]
    above = {node: path[: path.index(node) + 1] for path in paths for node in path} | {-1: ()}
    assert list(tree.nodes) == case.config['param_names']
    case.check('tree/leaf_param_index', tree.leaves)
    case.check('tree/codewords', [[int(node in path) for path in paths] for node in nodes])
    dependence = [[float(j == -1 or j in above[i]) for j in inner] for i in inner]
    case.check('tree/dependence', np.array(dependence, np.float32))
    masks = [[1 if i != v and (i == -1 or i in above[v]) else 0 if v in above[i] else -1 for v in nodes] for i in inner]
    case.check('tree/masks', masks)
    sublabels = np.full((len(leaves), len(inner)), -1, np.float32)
    for label, path in enumerate(paths):
        for parent, child in zip((-1, *path), path, strict=False):
            sublabels[label, inner.index(parent)] = tree.below[parent].index(child)
    case.check('tree/sublabels', sublabels)


def check_cuts(case: Case, tree: Taxonomy) -> np.ndarray:
    """Keep bits (rows, parents); the label sets and where each class is in them."""
    draws = case.config['draws']
    sign, bound = re.fullmatch(r'value ([<>]) (\S+)', draws['keep']).groups()
    numbers = array(*draws['array']).numpy()
    keep = numbers > float(bound) if sign == '>' else numbers < float(bound)
    case.check('draw/treecut', keep.astype(np.float32))
    cuts = [tree.cut(row) for row in keep]
    case.check('treecut/label_set', [[node in places for node in range(len(tree.nodes))] for places, _ in cuts])
    case.check('treecut/mapping', np.stack([mapping for _, mapping in cuts]))
    return keep


def percent(right: torch.Tensor) -> float:
    return 100 * right.float().mean().item() if len(right) else 0.0


def consistent(tree: Taxonomy, scores: torch.Tensor, labels: list) -> torch.Tensor:
    """Which images are right at every node above their leaf."""
    rows = []
    for row, label in zip(scores, labels, strict=True):
        path = tree.path(label)
        steps = zip((-1, *path), path, strict=False)
        rows.append(all(tree.below[parent][int(row[tree.below[parent]].argmax())] == child for parent, child in steps))
    return torch.tensor(rows)


def check_metrics(case: Case, model, prefix: str, images, keep: np.ndarray, monkeypatch) -> None:
    config, loss = case.config, model.loss_function
    tree, labels = loss.tree, torch.tensor(config['labels'])
    with torch.no_grad():
        scores = model(images)
    leaves = scores[:, torch.from_numpy(tree.leaves)]
    case.check(f'{prefix}logits', leaves, rtol=1e-3 if prefix else 1e-4)
    cuts = [tree.cut(keep[row]) for row in config['treecuts_for_mta']]
    monkeypatch.setattr(Taxonomy, 'draw_cuts', lambda *_: cuts)
    metric = METRICS.build(dict(type='vlm_dense.TaxonomyMetric'))
    metric.dataset_meta = dict(taxonomy=children_of(config['tree']), classes=config['leaf_names'])
    metric.process(None, [dict(pred_scores=s, gt_label=y) for s, y in zip(scores, labels, strict=True)])
    found = metric.evaluate(len(labels))
    for ours, official in dict(top1='leaf_accuracy', HCA='hca', MTA='mta').items():
        case.check(f'{prefix}metric/{official}', found[ours])

    every = torch.arange(len(tree.nodes))
    step = Step(None, None, None, scores, None, labelled(config['labels']), tree.nodes, every)
    node_centric = loss.over_children(step, labels)
    case.check(f'{prefix}metric/node_loss', node_centric, rtol=1e-3)
    case.check(f'{prefix}metric/eval_loss', F.cross_entropy(leaves, labels) + loss.weight * node_centric, rtol=1e-3)
    right = []
    for parent in tree.inner:
        below = [i for i, k in enumerate(labels.tolist()) if parent in (-1, *tree.path(k)[:-1])]
        ways = torch.tensor(tree.below[parent])
        best = ways[scores[below][:, ways].argmax(1)] if below else []
        on_path = [int(b) in tree.path(config['labels'][i]) for b, i in zip(best, below, strict=True)]
        right.append(percent(torch.tensor(on_path)))
    case.check(f'{prefix}metric/node_accuracy', np.array(right, np.float32))
    over_cuts = [percent(scores[:, p].argmax(1) == torch.from_numpy(m)[labels]) for p, m in cuts]
    case.check(f'{prefix}metric/treecut_accuracy', np.array(over_cuts, np.float32))


def check_logits(case: Case, model, images, keep: np.ndarray) -> None:
    tree = model.loss_function.tree
    with torch.no_grad():
        scores = model(images)
        text = F.normalize(model.text_side.class_embeddings(), dim=-1)
    case.check('mid/text_features_all_nodes_normalised', text)
    for i, parent in enumerate(tree.inner):
        case.check(f'mid/logits_node{i}', scores[:, tree.below[parent]])
    for name in case.keys('mid/logits_cut'):
        case.check(f'mid/logits_cut{name}', scores[:, tree.cut(keep[int(name)])[0]])
    labels = torch.tensor(case.config['labels'])
    places, mapping = tree.cut(keep[case.config['treecut_row_of_train_step'][0]])
    over_cut = scores[:, places].argmax(1) == torch.from_numpy(mapping)[labels]
    quirk = percent(over_cut & consistent(tree, scores, labels.tolist()))
    case.check('metric/train_hca_quirk', quirk)


def train(case: Case, model, images, keep: np.ndarray) -> None:
    config, loss, prompt = case.config, model.loss_function, model.text_prompt
    rows = config['treecut_row_of_train_step']
    loss.rows = [keep[row] for row in rows]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(prompt.ctx)}
    optimizer = torch.optim.SGD(trained, lr=config['sgd']['lr'])
    model.train()
    for step in range(config['sgd']['steps']):
        total, values = model.parse_losses(model(images, labelled(config['labels']), mode='loss'))
        case.check(f'loss_step{step}', total, rtol=1e-3 if step else 1e-4)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.check('loss', total)
            case.check('loss/dtl', values['loss_dtl'])
            case.check('loss/ncl', values['loss_ncl'] / loss.weight)
            case.check_grad('grad/ctx', prompt.ctx.grad)
        optimizer.step()
    case.check('after3/loss', total, rtol=1e-3)  # here that of the last step
    case.check('after3/ctx', prompt.ctx, rtol=1e-3)
    model.eval()


@pytest.mark.filterwarnings('error')
def test_every_official_number_is_reproduced(protect_case, tmp_path, monkeypatch):
    case = Case(protect_case)
    config = case.config
    taxonomy = children_of(config['tree'])
    assert config['internal_nodes'] == ['root', *[*taxonomy][1:]]
    loss = dict(type=Given, taxonomy=taxonomy, classes=config['leaf_names'], weight=config['node_loss_weight'])
    prompt = dict(type='vlm_dense.CoOpPrompt', num_contexts=config['n_ctx'], position=config['class_token_position'])
    model = classifier(dict(config, classnames=config['param_names']), tmp_path, prompt, loss=loss)
    set_parameters(model.text_prompt, config['params'])
    tree, images = model.loss_function.tree, inputs(config['images'])
    check_tree(case, tree)
    keep = check_cuts(case, tree)
    check_logits(case, model, images, keep)
    check_metrics(case, model, '', images, keep, monkeypatch)
    train(case, model, images, keep)
    check_metrics(case, model, 'after3/', images, keep, monkeypatch)
    case.unread.discard('mid/logits_fp16_rounded_weights')  # information only
    case.done()
