"""Tiny random encoders of eleven architectures, each with a tokenizer of its own kind, trained on the texts given."""

import json
from collections.abc import Iterable
from pathlib import Path

BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Four heads of eight numbers. 64 positions, so that sentences of the samples need windows.
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
DISTILBERT = dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, qa_dropout=0.0)
DEBERTA = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", type_vocab_size=0)
DEBERTA |= dict(position_buckets=16, share_att_key=True, position_biased_input=False, pooler_hidden_size=32)

# Name of the classes; tokenizer; entries of the config beside the sizes. From RoBERTa on, positions start at 2.
ENCODERS = {
    "bert": ("Bert", "word pieces", NO_DROPOUT),
    "distilbert": ("DistilBert", "word pieces", DISTILBERT),
    "roberta": ("Roberta", "bytes", NO_DROPOUT | dict(max_position_embeddings=66)),
    "xlm-roberta": ("XLMRoberta", "unigrams", NO_DROPOUT | dict(max_position_embeddings=66)),
    "camembert": ("Camembert", "unigrams", NO_DROPOUT | dict(max_position_embeddings=66)),
    "electra": ("Electra", "word pieces", NO_DROPOUT | dict(embedding_size=16)),
    "albert": ("Albert", "unigrams", NO_DROPOUT | dict(embedding_size=16, classifier_dropout_prob=0.0)),
    "deberta-v2": ("DebertaV2", "unigrams", NO_DROPOUT | DEBERTA | dict(conv_kernel_size=3, conv_act="gelu")),
    "deberta-v3": ("DebertaV2", "unigrams", NO_DROPOUT | DEBERTA),
    "mpnet": ("MPNet", "word pieces", NO_DROPOUT | dict(max_position_embeddings=66)),
    "modernbert": ("ModernBert", "bytes", dict(local_attention=8, global_attn_every_n_layers=2)),
}
TOKENIZERS = {"DistilBert": "Bert", "Electra": "Bert"}  # as the library maps them; all others have their own


def build_tokenizer(name: str, texts: Iterable[str], size: int = 400):
    """The fast tokenizer of an architecture, with a vocabulary of about `size` learnt from `texts`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    family, kind, _ = ENCODERS[name]
    options = dict(vocab_size=size, show_progress=False)
    like_roberta = name in ("roberta", "xlm-roberta", "camembert", "mpnet")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if like_roberta else BERT_TOKENS
    special = [*special, "[UNK]"] if name == "mpnet" else special
    if kind == "word pieces":
        learnt = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        learnt.normalizer = normalizers.BertNormalizer(lowercase=True)
        learnt.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(special_tokens=special, **options)
    elif kind == "bytes":
        learnt = Tokenizer(models.BPE())
        learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, **options)
    else:
        learnt = Tokenizer(models.Unigram())
        learnt.pre_tokenizer = pre_tokenizers.Metaspace()
        special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] if name == "albert" else special
        unknown = next(token for token in special if "unk" in token.lower())
        trainer = trainers.UnigramTrainer(special_tokens=special, unk_token=unknown, **options)
    learnt.train_from_iterator(texts, trainer)

    if name == "modernbert":  # has no class of its own: the backend is all there is
        ids = {token: learnt.token_to_id(token) for token in ("[CLS]", "[SEP]")}
        learnt.decoder = decoders.ByteLevel()
        learnt.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=list(ids.items())
        )
        names = zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT_TOKENS, strict=True)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=learnt,
            model_max_length=512,
            model_input_names=["input_ids", "attention_mask"],
            **dict(names),
        )
    tokenizer_class = getattr(transformers, TOKENIZERS.get(family, family) + "TokenizerFast")
    model = json.loads(learnt.to_str())["model"]
    vocab = [tuple(entry) for entry in model["vocab"]] if kind == "unigrams" else learnt.get_vocab()
    merges = dict(merges=[tuple(pair) for pair in model["merges"]]) if kind == "bytes" else {}
    return tokenizer_class(vocab=vocab, model_max_length=512, **merges)


def save_encoder(name: str, folder: Path, texts: Iterable[str]) -> str:
    """Save a random 2-layer model without dropout and its tokenizer, as they lie on the Hub."""
    import torch
    import transformers

    family, _, options = ENCODERS[name]
    tokenizer = build_tokenizer(name, texts)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **SIZES
        | dict(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id)
        | options
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
