"""A tiny encoder made from nothing, for first steps where no pretrained one is at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

VOCABULARY: Final = 4000
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def scratch_encoder(texts: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """A BERT of two layers with random weights, and a tokenizer that knows the words of ``texts``.

    The vocabulary holds every character and then the most frequent words, so that the same texts
    give the same tokenizer; the trainers of the tokenizers library do not promise that.
    """
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    characters = sorted({character for word in words for character in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))
    known = [*_SPECIAL, *characters, *(f"##{each}" for each in characters), *frequent]
    vocabulary = {word: place for place, word in enumerate(list(dict.fromkeys(known))[:VOCABULARY])}
    pieces: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizer, splitter
    begin, end = (pieces.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    pieces.post_processor = processors.BertProcessing(("[SEP]", end), ("[CLS]", begin))
    library: Any = transformers  # its classes are only partly typed
    tokenizer = library.PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=max_tokens,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    config = library.BertConfig(
        vocab_size=pieces.get_vocab_size(), hidden_size=128, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=256, max_position_embeddings=max_tokens,
        num_labels=1,
    )  # fmt: skip
    return library.BertForSequenceClassification(config), tokenizer
