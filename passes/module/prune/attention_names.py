"""How libraries name the parts of self-attention: by these names it is recognized."""

NAMES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
)
OUTPUTS = ("output.dense", "dense", "out_proj", "o_proj", "out_lin", "to_out.0", "to_out", "proj")
COUNTS = ("num_attention_heads", "num_heads", "n_heads", "heads")
