"""Remote tensors, and the eager operators applied to them."""

from dynamo_genie.tensor.eager import run_operator
from dynamo_genie.tensor.remote_tensor import RemoteTensor

RemoteTensor.run_operator = staticmethod(run_operator)
