"""Remote tensors, and the eager operators applied to them."""

from multiprocessing.reduction import ForkingPickler

from dynamo_genie.tensor.eager import run_operator, send_operator
from dynamo_genie.tensor.native_access import reduce_for_process
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.opaque import opaque

RemoteTensor.run_operator = staticmethod(run_operator)
RemoteTensor.send_operator = staticmethod(opaque(send_operator))
ForkingPickler.register(RemoteTensor, reduce_for_process)
