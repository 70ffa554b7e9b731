"""Architectures by name, as differences from the released student."""

PRESETS: dict[str, dict] = {
    # The released student and its published variants.
    "mobilebert": {},
    "mobilebert_paper": {"key_query_shared_bottleneck": False},
    "mobilebert_without_opt": {
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
    },
    "mobilebert_tiny": {
        "num_feedforward_networks": 2,
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
    },
    "mobilebert_multilingual": {"vocab_size": 119547},
    "mobilebert_edgetpu_xxs": {
        "num_hidden_layers": 6,
        "intermediate_size": 1024,
        "num_feedforward_networks": 2,
    },
    "mobilebert_edgetpu_xs": {
        "num_hidden_layers": 8,
        "intra_bottleneck_size": 256,
        "intermediate_size": 1024,
    },
    "mobilebert_edgetpu_s": {
        "num_hidden_layers": 12,
        "intra_bottleneck_size": 256,
        "intermediate_size": 1024,
    },
    "mobilebert_edgetpu_m": {
        "num_hidden_layers": 12,
        "intra_bottleneck_size": 256,
        "intermediate_size": 1024,
        "num_feedforward_networks": 6,
    },
    # The teacher: an inverted bottleneck, wide inside and narrow between.
    "ib_bert_large": {
        "intra_bottleneck_size": 1024,
        "intermediate_size": 4096,
        "num_feedforward_networks": 1,
        "key_query_shared_bottleneck": False,
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "classifier_activation": True,
    },
    # A teacher and a student that two cores can train in minutes.
    "ib_bert_small": {
        "vocab_size": 4000,
        "embedding_size": 48,
        "hidden_size": 96,
        "intra_bottleneck_size": 160,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_feedforward_networks": 1,
        "key_query_shared_bottleneck": False,
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "classifier_activation": True,
        "max_position_embeddings": 128,
    },
    "mobilebert_small": {
        "vocab_size": 4000,
        "embedding_size": 48,
        "hidden_size": 96,
        "intra_bottleneck_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_feedforward_networks": 2,
        "max_position_embeddings": 128,
    },
}
