"""Archive of a .pt2 for torch, rebuilt from checked parts.

``torch.export.load`` unpickles what an archive holds beside weights, loads compiled libraries, looks up any function
that the graph names, evaluates formulas of sizes as Python, and writes names of nodes into source code that it runs.
It must never be given a file of a stranger. So nothing of the file is passed on as it is: entries must be on a list,
JSON is parsed, checked against lists and written again, and weights are bytes of the length that their sizes ask for.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import re
import zipfile
from collections.abc import Iterable

from vlm_dense.errors import CheckpointError
from vlm_dense.export.metadata import KEY

_KEPT = re.compile(r'data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder')
_GRAPH = 'models/model.json'
_PAYLOADS = {'data/weights/model_weights_config.json': 'weight', 'data/constants/model_constants_config.json': 'tensor'}
_EMPTY = 'data/sample_inputs/model.pt'
_DROPPED = {'.data/version', '.data/serialization_id', '.format_version', '.storage_alignment', 'version'}
_MOST_TEXT = 64 << 20  # bytes of JSON; graphs of the models here have some MB

_ATEN = """
__and__.Tensor _adaptive_avg_pool2d.default _assert_tensor_metadata.default _log_softmax.default
_native_batch_norm_legit_no_training.default _softmax.default _to_copy.default abs.default adaptive_avg_pool2d.default
adaptive_max_pool2d.default add.Scalar add.Tensor add_.Scalar add_.Tensor addcmul.default addmm.default alias.default
amax.default amin.default any.default any.dim arange.default arange.start arange.start_step argmax.default
argmin.default avg_pool2d.default baddbmm.default batch_norm.default bitwise_and.Tensor bitwise_not.default
bitwise_or.Tensor bmm.default cat.default cdist.default ceil.default chunk.default clamp.Tensor clamp.default
clamp_.default clamp_max.default clamp_min.default clone.default constant_pad_nd.default contiguous.default
conv1d.default conv2d.default conv2d.padding conv_transpose2d.input convolution.default copy_.default cos.default
cumsum.default detach.default detach_.default diagonal.default div.Scalar div.Tensor div.Tensor_mode div_.Scalar
div_.Tensor dropout.default dropout_.default einsum.default elu.default embedding.default eq.Scalar eq.Tensor
erf.default exp.default expand.default expand_as.default expm1.default feature_dropout.default fill_.Scalar
flatten.using_ints flip.default floor.default floor_divide.default full.default full_like.default gather.default
ge.Scalar ge.Tensor gelu.default grid_sampler.default grid_sampler_2d.default group_norm.default gt.Scalar gt.Tensor
hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default hardtanh_.default
im2col.default index.Tensor index_select.default instance_norm.default layer_norm.default le.Scalar le.Tensor
leaky_relu.default leaky_relu_.default lift_fresh_copy.default linalg_vector_norm.default linear.default log.default
log1p.default log_softmax.int logical_and.default logical_not.default logical_or.default lt.Scalar lt.Tensor mT.default
masked_fill.Scalar masked_fill.Tensor matmul.default max.default max.dim max.other max_pool2d.default
max_pool2d_with_indices.default maximum.default mean.default mean.dim min.default min.dim minimum.default mish.default
mish_.default mm.default movedim.int mul.Scalar mul.Tensor mul_.Scalar mul_.Tensor narrow.default
native_group_norm.default native_layer_norm.default ne.Scalar ne.Tensor neg.default new_ones.default new_zeros.default
numpy_T.default ones.default ones_like.default pad.default permute.default pixel_shuffle.default pow.Scalar
pow.Tensor_Scalar pow.Tensor_Tensor prelu.default prod.dim_int quantile.scalar reciprocal.default
reflection_pad2d.default relu.default relu6.default relu_.default remainder.Scalar remainder.Tensor repeat.default
repeat_interleave.self_int replication_pad2d.default reshape.default roll.default round.default rsqrt.default
rsub.Scalar scalar_tensor.default scaled_dot_product_attention.default scatter.src scatter.value select.int
sigmoid.default sigmoid_.default sign.default silu.default silu_.default sin.default slice.Tensor softmax.int
softplus.default sort.default split.Tensor split_with_sizes.default sqrt.default square.default squeeze.default
squeeze.dim squeeze.dims stack.default sub.Scalar sub.Tensor sub_.Tensor sum.default sum.dim_IntList sym_size.int
t.default tanh.default tile.default to.dtype to.dtype_layout topk.default transpose.int tril.default triu.default
type_as.default unbind.int unflatten.int unfold.default unsqueeze.default upsample_bicubic2d.default
upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_nearest2d.default
upsample_nearest2d.vec var.correction var_mean.correction view.default where.ScalarOther where.ScalarSelf where.self
zeros.default zeros_like.default
"""
_PYTHON = 'add sub mul floordiv truediv mod neg eq ne ge gt le lt and_ or_ getitem'
TARGETS = {
    *(f'torch.ops.aten.{name}' for name in _ATEN.split()),
    *(f'_operator.{name}' for name in _PYTHON.split()),
    *('torch.sym_max', 'torch.sym_min', 'torch.sym_not', 'torch.sym_ite', 'torch.sym_float', 'torch.sym_int'),
    *('math.ceil', 'math.floor', 'math.trunc'),
}
"""Functions that a graph may call: arithmetic on tensors in memory and on sizes; none opens a file or draws numbers."""

_KINDS = """
bool bools device expr float floats int ints layout memory_format name none optional_tensor optional_tensors scalar_type
string sym_bool sym_bools sym_float sym_floats sym_int sym_ints tensor tensors
"""
_KINDS = {f'as_{kind}' for kind in _KINDS.split()}
_SPECS = {'user_input', 'parameter', 'buffer', 'tensor_constant', 'user_output'}
_NAMES = {'name', 'as_name', 'forward_arg_names'}
_IDENTIFIER = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_WORD = re.compile(r'[A-Za-z0-9_.+\-]*')
_TEXT = re.compile(r'[A-Za-z0-9_.,+\-> ]*')  # as the equation of an einsum
_CONTAINERS = {None, 'builtins.tuple', 'builtins.list', 'builtins.dict'}

_FUNCTIONS = """
Add And CeilDiv CeilToInt CleanDiv Eq Equality Float FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt IntTrueDiv
Integer Le LessThan Lt Max Min Mod ModularIndexing Mul Ne Not Or Pow PythonMod Rational StrictGreaterThan
StrictLessThan Symbol ToFloat TruncToInt Unequality
""".split()  # noqa: SIM905
_ASSUMPTIONS = ('positive', 'negative', 'nonnegative', 'integer', 'real', 'precision', 'evaluate')
_CONSTANTS = ('int_oo', 'oo', 'true', 'false')
_FLOAT = re.compile(r'-?[\d.]{1,40}(e[+-]?\d{1,3})?')
_LONGEST = 10_000  # characters of a formula
_MOST_EXPONENT = 4


class _NotAllowedError(ValueError):
    """Something that is on no list."""


def checked_archive(archive: zipfile.ZipFile, path: str) -> io.BytesIO:
    """An archive for ``torch.export.load`` that holds the weights and the graph of ``archive`` and nothing else.

    Args:
        archive: Any zip file.
        path: For the message.

    Raises:
        CheckpointError: it holds what no file of tools/export.py holds. Nothing was run.
    """
    try:
        return _rewritten(archive)
    except _NotAllowedError as error:
        raise CheckpointError(
            f'{path} is refused: {error}, which no file of `vlm-dense export` holds. Nothing was run. Export the '
            'model again, or take ONNX.'
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f'{path} is damaged: its graph cannot be read ({error!r:.200}). Export it again.'
        ) from None


def _rewritten(archive: zipfile.ZipFile) -> io.BytesIO:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.partition('/')[2]
        known = _KEPT.fullmatch(name) or name in {_GRAPH, _EMPTY, f'extra/{KEY}', *_PAYLOADS, *_DROPPED}
        if not known or name in entries:
            raise _NotAllowedError(f'it has the entry {entry.filename!r}{" twice" if known else ""}')
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _NotAllowedError(f'its entry {entry.filename!r} is compressed')
        if name.endswith('.json') and entry.file_size > _MOST_TEXT:
            raise _NotAllowedError(f'its entry {entry.filename!r} has {entry.file_size:,} bytes')
        entries[name] = entry
    if _EMPTY in entries and entries[_EMPTY].file_size:
        raise _NotAllowedError(f'it has example inputs in {_EMPTY}')
    changed: dict[str, bytes] = {_EMPTY: b'', _GRAPH: _graph(json.loads(archive.read(entries[_GRAPH])))}
    for name, kind in _PAYLOADS.items():
        sizes = {n.rpartition('/')[2]: e.file_size for n, e in entries.items() if n.startswith(name.rpartition('/')[0])}
        changed[name] = _payloads(json.loads(archive.read(entries[name])), kind, sizes)
    clean = io.BytesIO()
    with zipfile.ZipFile(clean, 'w', zipfile.ZIP_STORED) as written:
        for name, entry in entries.items():
            if _KEPT.fullmatch(name):
                written.writestr(f'archive/{name}', archive.read(entry))
        for name, data in {**changed, '.data/version': b'6\n'}.items():
            written.writestr(f'archive/{name}', data)
    clean.seek(0)
    return clean


def _payloads(found: dict, kind: str, sizes: dict[str, int]) -> bytes:
    """The table of weights or constants."""
    for name, entry in found['config'].items():
        file, meta = entry['path_name'], entry['tensor_meta']
        if not re.fullmatch(rf'{kind}_\d+', file) or file not in sizes or entry['use_pickle'] is not False:
            raise _NotAllowedError(f'{name!r} lies in {file!r} and is no plain tensor')
        shape = [_integer(size) for size in meta['sizes']]
        if math.prod(shape) > sizes[file]:  # a number has at least a byte
            raise _NotAllowedError(f'{name!r} has {math.prod(shape):,} numbers in {sizes[file]:,} bytes')
        for number in (*meta['strides'], meta['storage_offset']):
            _integer(number)
    _walk(found)
    return json.dumps(found).encode()


def _integer(found: dict) -> int:
    value = found['as_int']
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _NotAllowedError(f'it has the size {value!r}')
    return value


def _graph(program: dict) -> bytes:
    """The graph, without what is for debuggers."""
    module = program['graph_module']
    nodes = module['graph']['nodes']
    for node in nodes:
        node['metadata'] = {}
    module['module_call_graph'] = [call for call in module['module_call_graph'] if call['fqn'] == '']
    module['metadata'], module['treespec_namedtuple_fields'] = {}, {}
    program['guards_code'] = []
    for spec in (*module['signature']['input_specs'], *module['signature']['output_specs']):
        _listed(spec, _SPECS, 'the input or output')
    if module['graph'].get('custom_obj_values'):
        raise _NotAllowedError('it has objects beside tensors')
    _walk(program)
    return json.dumps(program).encode()


def _listed(names: Iterable[str], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise _NotAllowedError(f'it has {what} {name!r}')


def _walk(node, place: str = '') -> None:
    """Refuse each value that its key does not allow, at any depth."""
    if isinstance(node, dict):
        _listed((key for key in node if key.startswith('as_')), _KINDS, 'the argument')
        for key, value in node.items():
            if not _WORD.fullmatch(key):
                raise _NotAllowedError(f'it has the name {key!r}')
            if key in ('tensor_values', 'sym_int_values', 'sym_float_values', 'sym_bool_values'):
                _identifiers(value)
            _walk(value, key)
    elif isinstance(node, list):
        for value in node:
            _walk(value, place)
    elif isinstance(node, str):
        _text(node, place)


def _text(text: str, place: str) -> None:
    if place == 'target':
        _listed([text], TARGETS, 'the function')
    elif place == 'expr_str':
        _formula(text)
    elif place in ('in_spec', 'out_spec'):
        _container(json.loads(text)[1])
    elif place in _NAMES:
        _identifiers([text])
    elif place == 'type' and text != 'cpu':  # of a device
        raise _NotAllowedError(f'it has the device {text!r}')
    elif not (_TEXT if place == 'as_string' else _WORD).fullmatch(text):
        raise _NotAllowedError(f'it has the text {text!r:.80}')


def _identifiers(names: Iterable[str]) -> None:
    for name in names:
        if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
            raise _NotAllowedError(f'it has the name {name!r:.80}')


def _container(spec: dict) -> None:
    """Structure of the arguments in tuples, lists and dicts."""
    _listed([spec['type']], _CONTAINERS, 'arguments of the type')
    _identifiers(json.loads(spec['context']) or () if spec['context'] is not None else ())
    for child in spec['children_spec']:
        _container(child)


def _formula(text: str) -> None:
    """Refuse a formula that is more than arithmetic of sizes; torch evaluates it."""
    if len(text) > _LONGEST:
        raise _NotAllowedError(f'it has a formula of {len(text):,} characters')
    try:
        _term(ast.parse(text, mode='eval').body)
    except (SyntaxError, MemoryError, _NotAllowedError):
        raise _NotAllowedError(f'it has the formula {text!r:.80}') from None


def _term(node: ast.expr, powers: bool = True) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, arguments = node.func.id, node.args
        if name not in _FUNCTIONS or any(keyword.arg not in _ASSUMPTIONS for keyword in node.keywords):
            raise _NotAllowedError
        for value in (keyword.value for keyword in node.keywords):
            _number(value)
        if name == 'Symbol':
            [symbol] = (argument.value for argument in arguments if isinstance(argument, ast.Constant))
            if len(arguments) != 1 or not isinstance(symbol, str) or not re.fullmatch(r'[a-z]+\d+', symbol):
                raise _NotAllowedError
        elif name == 'Float':
            [given] = arguments
            if not isinstance(given, ast.Constant) or not re.fullmatch(
                r'-?[\d.]{1,40}(e[+-]?\d{1,3})?', str(given.value)
            ):
                raise _NotAllowedError
        elif name == 'Pow':
            base, exponent = arguments
            if not powers or not isinstance(exponent, ast.Call) or exponent.func.id not in ('Integer', 'Rational'):
                raise _NotAllowedError
            if any(abs(_number(one)) > _MOST_EXPONENT for one in exponent.args):
                raise _NotAllowedError
            _term(base, powers=False)
        else:
            for argument in arguments:
                _term(argument, powers)
    elif not (isinstance(node, ast.Name) and node.id in _CONSTANTS):
        _number(node)


def _number(node: ast.expr) -> int | float:
    value = ast.literal_eval(node) if isinstance(node, (ast.Constant, ast.UnaryOp)) else None
    if not isinstance(value, (int, float)) or not abs(value) < 2**63:
        raise _NotAllowedError
    return value
