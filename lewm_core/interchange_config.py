"""The reference's config.json as our ModelConfig, and back. `_target_` names are only read."""

from __future__ import annotations

from typing import Any

from lewm_core.config import ModelConfig, checked
from lewm_core.types import UserError

# Hidden width, layers and heads of the ViT sizes that config.json names; the MLP is four times
# the width.
_SIZES = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12),
          'large': (1024, 24, 16), 'huge': (1280, 32, 16)}
_PARTS = ('encoder', 'predictor', 'action_encoder', 'projector', 'pred_proj')


def model_config(tree: Any, action_dim: int, where: str) -> ModelConfig:
    """The shape that `tree`, a parsed config.json, describes, for a robot of `action_dim` fields.

    The frameskip is not in the file: it follows from the width of an action block. Raises
    UserError that begins with `where` when a key is missing or this model has no such part.
    """
    tree = tree.get('model', tree) if isinstance(tree, dict) else tree
    for part in _PARTS:
        if not isinstance(tree, dict) or not isinstance(tree.get(part), dict):
            raise UserError(f'{where} has no part {part!r}; give the config.json of a LeWM '
                            'checkpoint')
    read = _Reader(tree, where)
    width = read('predictor', 'hidden_dim')
    values = {**_encoder(read), **_predictor(read), **_projectors(read), 'name': 'lewm',
              'action_hidden': read('action_encoder', 'smoothed_dim', 10),
              'action_mlp': read('action_encoder', 'mlp_scale', 4) * width,
              'frameskip': _frameskip(read('action_encoder', 'input_dim'), action_dim, where)}
    read.expect('action_encoder', 'emb_dim', width)
    return checked(ModelConfig(**values), where)


def config_tree(config: ModelConfig, action_dim: int) -> dict[str, Any]:
    """The tree of a config.json for `config`, as the reference library instantiates it.

    Raises UserError when the reference has no such model: a convolutional encoder, or a predictor
    of another width than the latent.
    """
    width = config.predictor_width
    for bad, what in ((config.encoder != 'vit', f'encoder={config.encoder!r}'),
                      (config.latent_dim != width, f'latent_dim={config.latent_dim} beside '
                       f'predictor_width={width}'),
                      (config.action_mlp % width, f'action_mlp={config.action_mlp} beside '
                       f'predictor_width={width}'),
                      (config.predictor_heads == 1 and config.predictor_head_dim == width,
                       'predictor_heads=1')):
        if bad:
            raise UserError(f'the model {config.name!r} has {what}, which the reference library '
                            'cannot build; only models of the shape of model=lewm are exported')
    library = 'stable_worldmodel.wm.lewm'
    projector = {'_target_': f'{library}.module.MLP', 'output_dim': config.latent_dim,
                 'hidden_dim': config.projector_hidden,
                 'norm_fn': {'_target_': 'torch.nn.BatchNorm1d', '_partial_': True}}
    return {
        '_target_': f'{library}.LeWM',
        'encoder': _encoder_tree(config),
        'predictor': {
            '_target_': f'{library}.module.Predictor', 'num_frames': config.history,
            'input_dim': width, 'hidden_dim': width, 'output_dim': width,
            'depth': config.predictor_depth, 'heads': config.predictor_heads,
            'mlp_dim': config.predictor_mlp, 'dim_head': config.predictor_head_dim,
            'dropout': config.dropout, 'emb_dropout': 0.0},
        'action_encoder': {
            '_target_': f'{library}.module.Embedder', 'emb_dim': width,
            'input_dim': config.frameskip * action_dim, 'smoothed_dim': config.action_hidden,
            'mlp_scale': config.action_mlp // width},
        'projector': {**projector, 'input_dim': config.encoder_width},
        'pred_proj': {**projector, 'input_dim': config.latent_dim}}


class _Reader:
    """Numbers out of the tree by part and key; a UserError names what is missing or odd."""

    def __init__(self, tree: dict[str, Any], where: str) -> None:
        self._tree, self._where = tree, where

    def __call__(self, part: str, key: str, default: Any = None, kind: type = int) -> Any:
        value = self._tree[part].get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f'{self._where}: {part}.{key} is {value!r}, but {kind.__name__} is '
                            'expected; give the config.json that belongs to the weights')
        return value

    def expect(self, part: str, key: str, value: Any) -> None:
        found = self._tree[part].get(key, value)
        if found != value:
            raise UserError(f'{self._where}: {part}.{key} is {found!r}, but this model can only '
                            f'take {value!r}; such a checkpoint cannot be imported')

    def layers(self, part: str) -> None:
        """Raises UserError where a projector's norm or activation is another than ours."""
        for key, default, only, setting, usual in (
                ('norm_fn', None, 'torch.nn.BatchNorm1d', 'eps', 1e-5),
                ('act_fn', 'torch.nn.GELU', 'torch.nn.GELU', 'approximate', 'none')):
            found = self._tree[part].get(key, default)
            tree = found if isinstance(found, dict) else {'_target_': found}
            name, value = tree.get('_target_'), tree.get(setting, usual)
            if not str(name).endswith(only.rpartition('.')[2]) or value != usual:
                shown = name if value == usual else f'{name}({setting}={value})'
                raise UserError(f'{self._where}: {part}.{key} is {shown!r}, but this model can '
                                f'only take {only}; such a checkpoint cannot be imported')


def _encoder(read: _Reader) -> dict[str, Any]:
    size = read('encoder', 'size', 'tiny', str)
    if size not in _SIZES:
        raise UserError(f'encoder size {size!r} is not known; it is one of {sorted(_SIZES)}')
    width, depth, heads = _SIZES[size]
    mlp = 4 * width  # of the size that is named, whatever width is given instead
    width = read('encoder', 'hidden_size', width)
    # What leaves no trace in the tensors.
    read.expect('encoder', 'hidden_act', 'gelu')
    read.expect('encoder', 'layer_norm_eps', 1e-12)
    return {'encoder': 'vit', 'image_size': read('encoder', 'image_size', 224),
            'patch_size': read('encoder', 'patch_size', 16), 'encoder_width': width,
            'encoder_depth': read('encoder', 'num_hidden_layers', depth),
            'encoder_heads': read('encoder', 'num_attention_heads', heads),
            'encoder_mlp': read('encoder', 'intermediate_size', mlp)}


def _encoder_tree(config: ModelConfig) -> dict[str, Any]:
    shape = (config.encoder_width, config.encoder_depth, config.encoder_heads)
    tree = {'_target_': 'stable_pretraining.backbone.utils.vit_hf', 'size': 'tiny',
            'patch_size': config.patch_size, 'image_size': config.image_size,
            'pretrained': False, 'use_mask_token': False}
    if shape != _SIZES['tiny'] or config.encoder_mlp != 4 * shape[0]:
        tree.update(hidden_size=shape[0], num_hidden_layers=shape[1],
                    num_attention_heads=shape[2], intermediate_size=config.encoder_mlp)
    return tree


def _predictor(read: _Reader) -> dict[str, Any]:
    width = read('predictor', 'hidden_dim')
    # Theirs adds the positions before it changes the width, ours after: only one width is both.
    for key in ('input_dim', 'output_dim'):
        read.expect('predictor', key, width)
    return {'history': read('predictor', 'num_frames'), 'predictor_width': width,
            'latent_dim': width, 'predictor_depth': read('predictor', 'depth'),
            'predictor_heads': read('predictor', 'heads'),
            'predictor_head_dim': read('predictor', 'dim_head', 64),
            'predictor_mlp': read('predictor', 'mlp_dim'),
            'dropout': read('predictor', 'dropout', 0.0, float)}


def _projectors(read: _Reader) -> dict[str, Any]:
    hidden, width = read('projector', 'hidden_dim'), read('predictor', 'hidden_dim')
    read.expect('pred_proj', 'hidden_dim', hidden)
    for part in ('projector', 'pred_proj'):
        read.expect(part, 'output_dim', width)
        read.layers(part)
    return {'projector_hidden': hidden}


def _frameskip(inputs: int, action_dim: int, where: str) -> int:
    frameskip, rest = divmod(inputs, action_dim)
    if rest or not frameskip:
        raise UserError(f'{where}: an action block has {inputs} numbers, which is not a multiple '
                        f'of the {action_dim} action fields of the dataset; give the dataset that '
                        'the checkpoint was trained on')
    return frameskip
