"""The messages about models that a daemon has in files: which there are, their tensors, handles made from them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.limits import MAX_ITEMS
from dynamo_genie.runtime.wire.record import Digest, Id, Kind, Message, Text
from dynamo_genie.runtime.wire.tensor import Dtype, Extent, Shape, TensorSpec

MAX_LOADED = 1024
"""So many tensors are loaded by one command, which runs whole."""

_LOADED = msgspec.Meta(max_length=MAX_LOADED)


class ListModels(Message, frozen=True, tag="M"):
    """Which models are there, the first `start` left out? Answered by `ModelsListed`."""

    request_id: Id
    start: Extent


class DescribeModel(Message, frozen=True, tag="J"):
    """Which tensors has a model, the first `start` left out? Answered by `ModelDescribed`."""

    request_id: Id
    model: Text
    start: Extent


class LoadWeights(Message, frozen=True, tag="L"):
    """Makes handles from tensors of a model, floating point ones in `dtype` where that is not empty.

    Answered by `WeightsLoaded` where `request_id` is not 0. Where `digests` are given, the contents must be those.
    """

    request_id: Id
    handles: Annotated[tuple[Id, ...], _LOADED]
    model: Text
    tensors: Annotated[tuple[Text, ...], _LOADED]
    dtype: Dtype | Literal[""] = ""
    digests: Annotated[tuple[Digest, ...], _LOADED] = ()


ModelCommand: TypeAlias = ListModels | DescribeModel | LoadWeights


class ModelSummary(Message, frozen=True, tag="s"):
    """A model: `dtypes` counts its tensors by dtype. `problem` says why it cannot be loaded; empty where it can."""

    name: Text
    files: Extent
    tensors: Extent
    nbytes: Extent
    dtypes: Annotated[tuple[tuple[Kind, Extent], ...], msgspec.Meta(max_length=64)]
    problem: Text = ""


class ModelsListed(Message, frozen=True, tag="M"):
    """Some of the models in the order of their names; `total` is how many there are."""

    request_id: Id
    total: Extent
    models: Annotated[tuple[ModelSummary, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class ModelTensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tensor of a model, as it is in its file."""

    name: Text
    dtype: Dtype
    shape: Shape


class ModelDescribed(Message, frozen=True, tag="J"):
    """Some of a model's tensors in the order of its files; `total` is how many there are."""

    request_id: Id
    total: Extent
    tensors: Annotated[tuple[ModelTensor, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class WeightsLoaded(Message, frozen=True, tag="L"):
    """What the handles name now, in order, and the digest of each content."""

    request_id: Id
    specs: Annotated[tuple[TensorSpec, ...], _LOADED]
    digests: Annotated[tuple[Digest, ...], _LOADED]


ModelAnswer: TypeAlias = ModelsListed | ModelDescribed | WeightsLoaded
