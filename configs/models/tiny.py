"""About 2M parameters: learns arithmetic on two CPU cores in minutes."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            vocab_size=1024,
            width=128,
            layers=4,
            dense_layers=1,
            heads=4,
            q_lora_rank=0,
            kv_lora_rank=48,
            nope_head_dim=16,
            rope_head_dim=16,
            v_head_dim=32,
            rope_theta=10_000.0,
            dense_ffn=384,
            experts=8,
            active_experts=2,
            shared_experts=1,
            expert_ffn=128,
            expert_groups=4,
            kept_groups=2,
            routed_scale=1.0,
            norm_eps=1e-6,
            context=1024,
            init_scale=0.06,
            dtype="float32",
            param_dtype="float32",
            remat="none",
        )
    )
