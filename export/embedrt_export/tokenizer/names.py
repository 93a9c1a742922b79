"""The tokenizer class that transformers chooses, by class name and architecture."""

from embedrt.errors import UnsupportedModelError

BACKEND = "TokenizersBackend"  # takes tokenizer.json as it stands; once PreTrainedTokenizerFast

# The class of an architecture, where transformers has one. Others have the backend.
BY_ARCHITECTURE = {
    "albert": "AlbertTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "convbert": "BertTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "ernie": "BertTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gte": "XLMRobertaTokenizer",
    "jina_embeddings_v3": "XLMRobertaTokenizer",
    "longformer": "RobertaTokenizer",
    "mistral": BACKEND,
    "mixtral": BACKEND,
    "mobilebert": "MobileBertTokenizer",
    "modernbert": BACKEND,
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "nomic_bert": "BertTokenizer",
    "nystromformer": BACKEND,
    "phi3": BACKEND,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "roberta-prelayernorm": "RobertaTokenizer",
    "roformer": "RoFormerTokenizer",
    "squeezebert": "BertTokenizer",
    "t5": "T5Tokenizer",
    "umt5": BACKEND,
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": BACKEND,
    "xmod": "XLMRobertaTokenizer",
}
# Known only with code from the repo; with it the architecture has the class that its repos name.
_BY_REMOTE_ARCHITECTURE = {"xlm-roberta-flash": "XLMRobertaTokenizer"}
# Architectures, or a config's `model_name`, whose repos often name a wrong class: the class of the architecture counts.
ARCHITECTURE_COUNTS = {"modernbert", "phi3", "qwen2", "camembertv2-base"}
# Other names of a class that is built here.
_ALIASES = {
    "BartTokenizer": "RobertaTokenizer",
    "BloomTokenizer": BACKEND,
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "LEDTokenizer": "RobertaTokenizer",
    "LayoutLMTokenizer": "BertTokenizer",
    "LongformerTokenizer": "RobertaTokenizer",
    "LxmertTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "MvpTokenizer": "RobertaTokenizer",
    "Phi3Tokenizer": "LlamaTokenizer",
    "PreTrainedTokenizer": BACKEND,
    "PythonBackend": BACKEND,
    "SqueezeBertTokenizer": "BertTokenizer",
}
BUILT = frozenset(
    {
        "AlbertTokenizer",
        "BertTokenizer",
        "CamembertTokenizer",
        "DebertaV2Tokenizer",
        "GPT2Tokenizer",
        "GemmaTokenizer",
        "LlamaTokenizer",
        "MPNetTokenizer",
        "Qwen2Tokenizer",
        "RobertaTokenizer",
        "T5Tokenizer",
        "XLMRobertaTokenizer",
    }
)
# Classes that are Python code, which the Rust library cannot run.
_PYTHON_NAMES = """
    BartphoTokenizer BasicTokenizer BertGenerationTokenizer BertJapaneseTokenizer BertTokenizerLegacy BertweetTokenizer
    BioGptTokenizer BlenderbotSmallTokenizer ByT5Tokenizer CTRLTokenizer CanineTokenizer CharacterTokenizer
    ClvpTokenizer CpmAntTokenizer CpmTokenizer DiaTokenizer EsmTokenizer FSMTTokenizer FastSpeech2ConformerTokenizer
    FlaubertTokenizer GPTNeoXJapaneseTokenizer GPTSw3Tokenizer M2M100Tokenizer MarianTokenizer MecabTokenizer
    MgpstrTokenizer MistralCommonBackend MyT5Tokenizer PLBartTokenizer PerceiverTokenizer PhobertTokenizer
    Pop2PianoTokenizer ProphetNetTokenizer RagTokenizer RoCBertTokenizer RoFormerTokenizer SentencePieceBackend
    SiglipTokenizer Speech2TextTokenizer SpeechT5Tokenizer TapasTokenizer VitsTokenizer Wav2Vec2CTCTokenizer
    Wav2Vec2PhonemeCTCTokenizer WordpieceTokenizer XLMTokenizer
"""
# Classes that transformers builds with the Rust library and that are not supported here.
_NOT_BUILT_NAMES = """
    BarthezTokenizer BigBirdTokenizer BlenderbotTokenizer CLIPTokenizer CodeGenTokenizer CodeLlamaTokenizer
    CohereTokenizer ConvBertTokenizer DPRContextEncoderTokenizer DPRQuestionEncoderTokenizer DPRReaderTokenizer
    DebertaTokenizer EsmcTokenizer FNetTokenizer FunnelTokenizer GPTNeoXTokenizer HerbertTokenizer LasrTokenizer
    LayoutLMv2Tokenizer LayoutLMv3Tokenizer LayoutXLMTokenizer LukeTokenizer MBart50Tokenizer MBartTokenizer
    MLukeTokenizer MarkupLMTokenizer NllbTokenizer NougatTokenizer OpenAIGPTTokenizer ParakeetTokenizer PegasusTokenizer
    Qwen3_5Tokenizer ReformerTokenizer RemBertTokenizer SeamlessM4TTokenizer Siglip2Tokenizer SplinterTokenizer
    Tipsv2Tokenizer UdopTokenizer VideoPrismTokenizer WhisperTokenizer XGLMTokenizer XLNetTokenizer
"""
_PYTHON = frozenset(_PYTHON_NAMES.split())
_NOT_BUILT = frozenset(_NOT_BUILT_NAMES.split())
_WORD_SEGMENTERS = {"BertJapaneseTokenizer", "CpmTokenizer", "RoFormerTokenizer"}


def tokenizer_class(
    named: str | None, architecture: str, model_name: str | None, *, is_byte_level: bool, remote: bool
) -> str:
    """The class that transformers 5 makes, without code from the repo.

    Args:
        named: `tokenizer_class` of `tokenizer_config.json`, else of `config.json`.
        architecture: The `model_type`.
        model_name: `model_name` of `config.json`.
        is_byte_level: `tokenizer.json` has a byte-level part.
        remote: `tokenizer_config.json` names code of the repo as the class.

    Returns:
        A name of `BUILT`, or `BACKEND`.

    Raises:
        UnsupportedModelError: The class cannot be built here.
    """
    own = BY_ARCHITECTURE.get(architecture)
    if named is None:
        if remote and own is None:
            raise _remote(named)
        return _buildable(own or _BY_REMOTE_ARCHITECTURE.get(architecture, BACKEND))
    named = named.removesuffix("Fast")
    architecture_counts = not {architecture, model_name}.isdisjoint(ARCHITECTURE_COUNTS)
    if not remote and named == "LlamaTokenizer" and is_byte_level and own != BACKEND and not architecture_counts:
        return BACKEND  # the class would put SentencePiece's parts in place of the byte-level ones
    if not remote and own is not None and own != named:
        return _buildable(own if own == BACKEND or architecture_counts else named)
    if remote and own is None and named not in known_classes() | _ALIASES.keys() | {BACKEND}:
        raise _remote(named)
    return _buildable(named)


def known_classes() -> frozenset[str]:
    """Every name that is not the backend's."""
    aliases = frozenset(name for name, meant in _ALIASES.items() if meant != BACKEND)
    return BUILT | aliases | _PYTHON | _NOT_BUILT


def _buildable(name: str) -> str:
    """Unknown names are the backend's, as in transformers."""
    name = _ALIASES.get(name, name)
    if name in BUILT:
        return name
    if name in _WORD_SEGMENTERS:
        raise UnsupportedModelError(
            f"tokenizer_class {name}: it splits words with Python code or a dictionary of its own, which the runtime "
            "cannot run; choose a model with another tokenizer"
        )
    if name in _PYTHON:
        raise UnsupportedModelError(
            f"tokenizer_class {name}: it is Python code, which the runtime cannot run; convert it to a tokenizer.json "
            "with the same ids and set tokenizer_class to PreTrainedTokenizerFast, or choose another model"
        )
    if name in _NOT_BUILT:
        raise UnsupportedModelError(
            f"tokenizer_class {name}: not supported; known: {', '.join(sorted(BUILT))}, PreTrainedTokenizerFast. Save "
            "it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers and set tokenizer_class "
            "to PreTrainedTokenizerFast in the tokenizer_config.json that this writes"
        )
    return BACKEND


def _remote(named: str | None) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"tokenizer_config.json: auto_map makes the class {named or 'of this tokenizer'} code of the repo, which is "
        "never run; if tokenizer.json gives the same ids, remove auto_map and set tokenizer_class to "
        "PreTrainedTokenizerFast"
    )
