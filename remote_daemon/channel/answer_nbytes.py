"""What an answer costs that is remembered until its client has heard it."""

from __future__ import annotations

from dynamo_genie.runtime.wire import messages as m

ANSWER_NBYTES, ITEM_NBYTES = 256, 40
"""What an answer counts beside the bytes and texts in it, and each number of a list."""


def answer_nbytes(reply: m.WorkerToClient) -> int:
    """Return about how many bytes an answer takes."""
    match reply:
        case m.Fetched(tensors=tensors):
            return ANSWER_NBYTES + sum(map(_item_nbytes, tensors))
        case m.Saved(tensors=saved):
            return ANSWER_NBYTES + sum(_item_nbytes(item) for item in saved if item is not None)
        case m.Failed(error=error):
            return ANSWER_NBYTES + _item_nbytes(error)
        case m.LateFailures(errors=errors):
            return ANSWER_NBYTES + sum(map(_item_nbytes, errors))
        case m.Described(specs=specs):
            return ANSWER_NBYTES * (1 + len(specs))
        case m.WeightsLoaded(specs=specs):
            return ANSWER_NBYTES * (1 + 2 * len(specs))
        case m.ModelDescribed(tensors=described):
            return ANSWER_NBYTES * (1 + len(described)) + sum(len(tensor.name) for tensor in described)
        case m.ModelsListed(models=models):
            return ANSWER_NBYTES * (1 + 8 * len(models)) + sum(len(each.name) + len(each.problem) for each in models)
        case m.WeightsMissing(missing=missing):
            return ANSWER_NBYTES + ITEM_NBYTES * len(missing)
        case m.Inspection(spans=spans, engines=engines):
            reasons = sum(len(reason) for _, _, reason in engines)
            return ANSWER_NBYTES * (1 + len(spans) + len(engines)) + reasons
    return ANSWER_NBYTES


def _item_nbytes(item: m.FetchedTensor | m.ErrorInfo) -> int:
    if isinstance(item, m.FetchedTensor):
        return ANSWER_NBYTES + len(item.data)
    return ANSWER_NBYTES + len(item.message) + len(item.traceback)
