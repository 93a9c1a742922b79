"""Methods and attributes of sentence-transformers' models that a bundle cannot have, with what to do instead."""

_WEIGHTS = "a bundle has no torch weights; keep the original model for what needs them"
_TRAINING = "a bundle cannot be trained; train the original model, then `embedrt export` the result"
_MODULES = "a bundle is one graph; `embedrt info` shows the modules that it was made of"
_COMPILED = "the graph was optimized by the export"

_INSTEAD = {
    **dict.fromkeys(
        ("buffers", "named_buffers", "named_parameters", "parameters", "register_buffer", "register_parameter"),
        f"{_WEIGHTS}. The model's `device` and `dtype` are properties",
    ),
    **dict.fromkeys(
        ("load_state_dict", "requires_grad_", "share_memory", "state_dict", "type", "zero_grad"),
        _WEIGHTS,
    ),
    **dict.fromkeys(
        (
            "add_adapter",
            "enable_adapters",
            "fit",
            "gradient_checkpointing_enable",
            "load_adapter",
            "old_fit",
            "smart_batching_collate",
            "training",
        ),
        _TRAINING,
    ),
    **dict.fromkeys(
        ("_modules", "append", "children", "insert", "modules", "named_children", "named_modules", "pop"), _MODULES
    ),
    **dict.fromkeys(("auto_model", "config", "transformers_model"), f"there is no transformers model: {_MODULES}"),
    **dict.fromkeys(
        ("forward", "register_forward_hook", "register_forward_pre_hook"),
        "`encode(texts, output_value=None)` gives all inputs and outputs of the graph",
    ),
    "compile": _COMPILED,
    "merge": "merge the original models, then `embedrt export` the result",
    "processor": "the model's `tokenizer` is a property",
    "save_to_hub": "the method is `push_to_hub`",
    "_target_device": "the property is `device`",
}


def no_attribute(owner: object, name: str) -> AttributeError:
    """The error for an attribute that a model lacks, with the alternative if sentence-transformers has it.

    Args:
        owner: The model.
        name: The attribute.
    """
    remedy = _INSTEAD.get(name)
    message = f"{type(owner).__name__!r} object has no attribute {name!r}" + (f": {remedy}" if remedy else "")
    return AttributeError(message, name=name, obj=owner)
