"""Runs inside a WebUI, for the probes: the sizes of a text encoder, read from its weights."""

HEADS = 4  # of each small model; weights do not tell


def text_sizes(state, prefix):
    """Return the entries of transformers' configuration that give the sizes, from the shapes of the tensors below ``prefix``.

    Keys are named as in transformers or as in OpenCLIP.
    """
    inside = {key: tensor.shape for key, tensor in state.items() if key.startswith(prefix)}
    vocabulary, width = next(shape for key, shape in inside.items() if key.endswith("token_embedding.weight"))
    wide = [shape[0] for key, shape in inside.items() if key.endswith(("mlp.fc1.weight", "mlp.c_fc.weight"))]
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "projection_dim": width, "intermediate_size": wide[0]}
    return sizes | {"num_hidden_layers": len(wide), "num_attention_heads": HEADS}
