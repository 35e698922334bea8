"""A digest identifies a content: bytes, dtype, shape and strides."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import hypothesis.strategies as st
import torch
from hypothesis import given

from dynamo_genie.runtime.weights.digests import TensorDigest, TensorHasher
from dynamo_genie.runtime.wire.content import DIGEST_NBYTES, chunk_digest, chunk_digests, content_digest
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.tensors import spec_of, tensor_bytes


def digest(tensor: torch.Tensor) -> TensorDigest:
    with closing(TensorHasher(threads=2)) as hasher:
        return hasher.digest_tensors([tensor])[0]


def test_equal_tensors_have_equal_digests_and_any_difference_shows() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert digest(base) == digest(base.clone())
    others = [base + 1, base.reshape(4, 3), base.view(torch.int32), torch.empty_strided((3, 4), (1, 3)).copy_(base)]
    assert len({digest(tensor).digest for tensor in [base, *others]}) == 5


def test_an_upload_is_verified_by_the_same_digest_without_torch() -> None:
    tensor = torch.randn(700_000)
    assert content_digest(spec_of(tensor), chunk_digests(tensor_bytes(tensor))) == digest(tensor).digest
    code = "import sys, dynamo_genie.runtime.wire.content; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_changed_element_changes_one_chunk() -> None:
    tensor = torch.zeros(3 * CHUNK_NBYTES + 5, dtype=torch.uint8)
    before = digest(tensor).chunks
    tensor[2 * CHUNK_NBYTES] = 1
    after = digest(tensor).chunks
    assert len(after) == 4 * DIGEST_NBYTES
    differing = [i for i in range(4) if before[i * 16 : i * 16 + 16] != after[i * 16 : i * 16 + 16]]
    assert differing == [2]


def test_hashing_on_threads_gives_what_one_thread_gives() -> None:
    tensors = [torch.randn(n) for n in (0, 1, 262_144, 262_145, 9_000_000)]
    with closing(TensorHasher(threads=3)) as hasher:
        together = hasher.digest_tensors(tensors)
    alone = [content_digest(spec_of(t), chunk_digests(tensor_bytes(t))) for t in tensors]
    assert [each.digest for each in together] == alone


def test_a_hasher_works_again_after_it_was_closed() -> None:
    hasher = TensorHasher()
    tensor = torch.randn(3_000_000)
    first = hasher.digest_tensors([tensor])
    hasher.close()
    assert hasher.digest_tensors([tensor]) == first
    hasher.close()


@given(st.binary(max_size=100))
def test_a_small_tensor_is_one_chunk_at_most(data: bytes) -> None:
    assert chunk_digests(memoryview(data)) == (chunk_digest(data) if data else b"")
