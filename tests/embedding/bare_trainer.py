"""Sentence Transformers' own trainer, with which fits are compared."""

import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Normalize


def bare_trainer(path, folder, columns, loss, *, epochs=2, seed=0, **arguments):
    """The model that Sentence Transformers' own trainer gives, and its steps."""
    from datasets import Dataset
    from transformers import PrinterCallback

    model = SentenceTransformer(path, device="cpu")
    model.append(Normalize())
    dataset = Dataset.from_dict(columns)
    steps = arguments.get("max_steps") or -(-len(dataset) // 10) * epochs
    arguments = {"logging_strategy": "no", **arguments}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=10,
            num_train_epochs=epochs,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup_steps=int(steps * 0.1),
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=dataset,
        loss=loss(model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


def assert_equal_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
