"""SetFit on rows that `few_shot.py` wrote: run with the Python of an environment that has ``setfit``; prints one line of JSON."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Train with SetFit's own defaults, and score."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, models
    from setfit import SetFitModel, Trainer, TrainingArguments

    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    trunk = models.Transformer(given["base"])
    body = SentenceTransformer(modules=[trunk, models.Pooling(trunk.get_word_embedding_dimension())], device="cpu")
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=body, model_head=LogisticRegression())
    trainer = Trainer(
        model=model, args=TrainingArguments(seed=given["seed"]), train_dataset=Dataset.from_list(given["train"])
    )
    trainer.train()
    said = model.predict([row["text"] for row in given["test"]])
    right = sum(str(s) == row["label"] for s, row in zip(said, given["test"], strict=True))
    print(json.dumps({"accuracy": right / len(given["test"]), "test_rows": len(given["test"]),
                      "train_rows": len(given["train"]), "setfit": version("setfit")}))  # fmt: skip


if __name__ == "__main__":
    main()
