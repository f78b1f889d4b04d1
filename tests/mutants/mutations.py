"""The mutations: each a mistake that one can make with these models, and the tests that must see it.

`edits` are (file, text, replacement); the text must occur exactly once. `tests` names tests of
which every one must fail. `suite` says which tests run: see SUITES in run.py.
"""

ATTENTION = "host/engine/src/layers/attention.rs"
KERNEL = "host/kernels/src/attention.rs"
HUB = "host/engine/src/model_config/hub.rs"
DRAW = "host/engine/src/engine_loop/draw.rs"
SAMPLER = "host/engine/src/sampler.rs"
INPUTS = "host/engine/src/runner/device/inputs.rs"
DEVICE_SAMPLING = "host/engine/src/runner/device/sampling.rs"
DEVICE_FORWARD = "host/engine/src/runner/device/forward.rs"

GEMMAS = ["golden::gemma2_matches_transformers", "golden::gemma3_matches_its_reference"]
GEMMA2 = GEMMAS[:1]
ALL_MODELS = GEMMAS + ["golden::llama_matches_transformers"]
REUSE = ["exactness::batched_answers_equal_those_alone"]
DEVICE_IS_CPU = ["device::in_float32_the_plan_computes_what_the_cpu_engine_computes"]
DEVICE_CHOOSES = ["device::the_device_chooses_what_the_host_would"]
DEVICE_PADDED = ["device::rows_that_pad_a_step_touch_nothing"]
LATE_ANYWHERE = ["engine_loop::tests::late_masks_change_nothing_on_a_runner_that_returns_logits"]
LATE_AHEAD = ["engine_loop::tests::late_masks_change_nothing_on_a_runner_that_draws"]
DEVICE_GRAMMAR = ["device::within_a_grammar_the_device_chooses_what_the_host_would"]
WINDOWED = "self.window.map_or(0, |window| end.saturating_sub(window))..end"

MUTATIONS = [
    # --- Soft caps -----------------------------------------------------------------------------
    dict(
        name="no soft cap on attention scores",
        edits=[(ATTENTION, "soft_cap: config.attn_logit_softcapping,", "soft_cap: None,")],
        tests=GEMMA2,
    ),
    dict(
        name="no soft cap on final logits",
        edits=[("host/engine/src/layers/decoder.rs", "if let Some(cap) = self.final_logit_softcapping {",
                "if let Some(cap) = self.final_logit_softcapping.filter(|_| false) {")],
        tests=GEMMA2,
    ),
    dict(
        name="temperature before the final cap",
        edits=[
            ("host/engine/src/layers/decoder.rs", "if let Some(cap) = self.final_logit_softcapping {",
             "if let Some(cap) = self.final_logit_softcapping.filter(|_| false) {"),
            (SAMPLER, "RawDistribution::of(&logits, num_alternatives)",
             "RawDistribution::of(&logits.iter().map(|x| 30.0 * (x / 30.0).tanh()).collect::<Vec<_>>(), num_alternatives)"),
            ("host/engine/src/sampler/weights.rs", "exp((logit - self.greatest) / self.temperature)",
             "exp(30.0 * ((logit / self.temperature / 30.0).tanh() - (self.greatest / self.temperature / 30.0).tanh()))"),
        ],
        tests=["sampling::temperature_acts_on_capped_logits"],
    ),
    # --- Window --------------------------------------------------------------------------------
    dict(
        name="window on all layers",
        edits=[(ATTENTION, ".filter(|_| config.windowed_layers[layer])", ".filter(|_| true)")],
        tests=GEMMAS,
    ),
    dict(
        name="window on no layer",
        edits=[(ATTENTION, ".filter(|_| config.windowed_layers[layer])", ".filter(|_| layer > 1000)")],
        tests=GEMMAS,
    ),
    dict(
        name="window on odd layers",
        edits=[(ATTENTION, ".filter(|_| config.windowed_layers[layer])", ".filter(|_| !config.windowed_layers[layer])")],
        tests=GEMMAS,
    ),
    dict(
        name="window a token too wide",
        edits=[(KERNEL, WINDOWED, WINDOWED.replace("(window))", "(window + 1))"))],
        tests=GEMMAS,
    ),
    dict(
        name="window a token too narrow",
        edits=[(KERNEL, WINDOWED, WINDOWED.replace("(window))", "(window - 1))"))],
        tests=GEMMAS,
    ),
    dict(
        name="window missing at decode",
        edits=[(ATTENTION, """                table,
                self.params,
""", """                table,
                AttentionParams { window: self.params.window.filter(|_| sequence.rows.len() > 1), ..self.params },
""")],
        tests=["exactness::scoring_a_generated_text_gives_the_logprobs_it_was_generated_with"],
    ),
    dict(
        name="window at decode up to the edge of its page",
        edits=[(ATTENTION, """                table,
                self.params,
""", """                table,
                AttentionParams { window: self.params.window.map(|window| match sequence.rows.len() {
                    1 => window + (sequence.first_position + 1).saturating_sub(window) % 16,
                    _ => window,
                }), ..self.params },
""")],
        tests=["exactness::scoring_a_generated_text_gives_the_logprobs_it_was_generated_with"],
    ),
    dict(
        name="window missing on what follows computed tokens",
        edits=[(ATTENTION, """                table,
                self.params,
""", """                table,
                AttentionParams { window: self.params.window.map(|window| match sequence.rows.len() {
                    1 => window,
                    _ if sequence.first_position == 0 => window,
                    _ => window + (sequence.first_position + 1).saturating_sub(window) % 16,
                }), ..self.params },
""")],
        tests=["exactness::small_chunks_equal_whole_prompts"],
    ),
    # --- Rotary embedding ----------------------------------------------------------------------
    dict(
        name="RoPE angles in bf16",
        edits=[("host/kernels/src/rope.rs", "(position as f32 * inv_freq).sin_cos()",
                "f32::from_bits((position as f32 * inv_freq).to_bits() & 0xffff_0000).sin_cos()")],
        tests=ALL_MODELS,
    ),
    dict(
        name="RoPE interleaved",
        edits=[("host/engine/src/layers/rope.rs", "model_config::RopeStyle::Halves => RopeStyle::Halves,",
                "model_config::RopeStyle::Halves => RopeStyle::Interleaved,")],
        tests=ALL_MODELS,
    ),
    dict(
        name="one rotary base for all layers of Gemma 3",
        edits=[("host/engine/src/models/gemma3.rs", "Arc::new(Rope::local(config)),", "Arc::new(Rope::global(config)),")],
        tests=GEMMAS[1:],
    ),
    # --- Activation, norms, embedding, scale, heads --------------------------------------------
    dict(
        name="SiLU for GELU",
        edits=[("host/engine/src/models/gemma2.rs", "Activation::GeluTanh)?", "Activation::Silu)?")],
        tests=GEMMAS,
    ),
    dict(
        name="norms without their 1 + w",
        edits=[("host/engine/src/layers/rms_norm.rs", "*gain += config.norm_offset;", "*gain += 0.0 * config.norm_offset;")],
        tests=GEMMAS,
    ),
    dict(
        name="norms with 1 + w twice",
        edits=[("host/engine/src/layers/rms_norm.rs", "*gain += config.norm_offset;", "*gain += 2.0 * config.norm_offset;")],
        tests=GEMMAS,
    ),
    dict(
        name="1 + w added to a GGUF file's norms",
        edits=[("host/engine/src/model_config/gguf.rs", "norm_offset: 0.0,", "norm_offset: if gemma { 1.0 } else { 0.0 },")],
        tests=["loading::a_gguf_file_of_the_same_weights_matches_transformers_too"],
    ),
    dict(
        name="post-norm after the add",
        edits=[("host/engine/src/layers/decoder_layer.rs", """            norm.forward(branch, normed)?;
            add_assign(hidden, normed)
""", """            add_assign(hidden, branch)?;
            norm.forward(hidden, normed)?;
            hidden.copy_from_slice(normed);
            Ok(())
""")],
        tests=GEMMAS,
    ),
    dict(
        name="embeddings not scaled",
        edits=[("host/engine/src/layers/embedding.rs", "if self.scale != 1.0 {", "if self.scale < 0.0 {")],
        tests=GEMMAS,
    ),
    dict(
        name="embedding scale not rounded to the dtype",
        edits=[(HUB, "return Ok(half::bf16::from_f32(scale).to_f32())", "return Ok(scale)")],
        tests=["loading::the_embedding_scale_is_rounded_to_the_checkpoints_dtype"],
    ),
    dict(
        name="attention scale from head_dim",
        edits=[(ATTENTION, "config.query_pre_attn_scalar.powf(-0.5)", "(config.head_dim as f32).powf(-0.5)")],
        tests=GEMMAS,
    ),
    dict(
        name="query heads mapped to KV heads in turns",
        edits=[(KERNEL, "let head = (kv_head - self.kv_heads.start) * group + row % group;",
                "let head = (row % group) * self.kv_heads.len() + (kv_head - self.kv_heads.start);")],
        tests=["golden::gemma2_matches_transformers", "golden::llama_matches_transformers"],
    ),
    # --- Tokens at the ends --------------------------------------------------------------------
    dict(
        name="<bos> twice before a raw prompt",
        edits=[("host/gateway/src/pipeline/prompt.rs", "Ok(bos.into_iter().chain(ids).collect())",
                "Ok(bos.into_iter().chain(bos).chain(ids).collect())")],
        suite="e2e",
        tests=["completions::"],
    ),
    dict(
        name="<bos> twice before a chat",
        edits=[("plugins/sdk/src/turns/gemma.rs", "PromptBuilder::new().control(BEGIN);",
                "PromptBuilder::new().control(BEGIN).control(BEGIN);")],
        suite="plugins",
        tests=["chats_of_user_and_assistant_are_what_the_official_template_writes"],
    ),
    dict(
        name="system message dropped",
        edits=[("plugins/sdk/src/turns/gemma.rs", "if !trim(&text).is_empty() {", "if trim(&text) == \"system\" {")],
        suite="plugins",
        tests=["system"],
    ),
    dict(
        name="end tokens of the tokenizer left out",
        edits=[(HUB, "                special.eos,\n", "")],
        tests=["loading::end_tokens_are_the_union_of_what_every_file_says"],
    ),
    dict(
        name="only the first end token ends",
        edits=[("host/engine/src/sequence.rs", "self.eos_token_ids.contains(&last)", "self.eos_token_ids.first() == Some(&last)")],
        tests=["sampling::every_end_token_ends_an_answer"],
    ),
    # --- Pages ---------------------------------------------------------------------------------
    dict(
        name="stale page after free: counted as computed",
        edits=[("host/engine/src/sequence.rs", """        self.blocks = SequenceBlocks::default();
        self.num_computed_tokens = 0;
""", """        self.blocks = SequenceBlocks::default();
        self.num_computed_tokens -= self.num_computed_tokens % 16;
"""), ("host/engine/src/sequence.rs", "        self.num_computed_tokens = blocks.num_known_tokens();",
                "        self.num_computed_tokens = self.num_computed_tokens.max(blocks.num_known_tokens());")],
        tests=["exactness::preempted_answers_equal_those_alone"],
    ),
    dict(
        name="prefix hit without a look at the windowed pages",
        edits=[("host/engine/src/kv_cache/prefix.rs", "while index > self.first_visible_block(num_blocks) {",
                "while index > num_blocks {")],
        tests=["exactness::answers_with_scarce_blocks_and_prefix_hits_equal_those_computed_cold"],
    ),
    dict(
        name="prefix hit of the whole prompt",
        edits=[("host/engine/src/sequence.rs", "            None => self.num_tokens_to_compute() - 1,",
                "            None => self.num_tokens_to_compute(),")],
        tests=["exactness::answers_after_a_prefix_hit_equal_those_computed_cold"],
    ),
    dict(
        name="page known before it is computed",
        edits=[("host/engine/src/sequence.rs", "        let num_blocks = self.num_computed_tokens / BLOCK_TOKENS;",
                "        let num_blocks = self.num_computed_tokens.div_ceil(BLOCK_TOKENS);")],
        tests=["exactness::answers_after_a_prefix_hit_equal_those_computed_cold"],
    ),
    dict(
        name="off by one in the last page",
        edits=[(KERNEL, "..visible[t].end.clamp(start, start + BLOCK_TOKENS) - start;",
                "..(visible[t].end + 1).clamp(start, start + BLOCK_TOKENS) - start;")],
        tests=ALL_MODELS,
    ),
    # --- Sampling ------------------------------------------------------------------------------
    dict(
        name="seed tied to the batch slot",
        edits=[
            (DRAW, "part, rows, step.late", "part, rows, step.ids.iter().position(|other| other == id).unwrap_or(0), step.late"),
            (DRAW, "    rows: Vec<RowOutput>,\n    is_late", "    rows: Vec<RowOutput>,\n    slot: usize,\n    is_late"),
            (DRAW, "seed: sequence.seed(),", "seed: sequence.seed() ^ slot as u64,"),
        ],
        tests=["exactness::seeded_draws_do_not_depend_on_company"],
    ),
    # --- Masks that are late -------------------------------------------------------------------
    dict(
        name="late row not computed again",
        suite="engine",
        edits=[("host/engine/src/sequence.rs", "num_computed - usize::from(result.is_late)", "num_computed")],
        tests=LATE_ANYWHERE,
    ),
    dict(
        name="late row followed by the next step",
        suite="engine",
        edits=[("host/engine/src/scheduler/ahead.rs", "if step.late.contains(&id) {", "if step.late.is_empty() {")],
        tests=LATE_AHEAD,
    ),
    dict(
        name="late sequence left out for as long as others go on",
        suite="engine",
        edits=[("host/engine/src/scheduler/ahead.rs", "                sequence.in_step = false;\n", "")],
        tests=LATE_AHEAD,
    ),
    # --- The launch plan of a device -----------------------------------------------------------
    dict(
        name="device: padding row on a live page",
        suite="device",
        edits=[
            (INPUTS, "self.full_slots.resize(rows, scratch(plan.num_full_blocks));",
             "self.full_slots.resize(rows, self.full_slots.first().copied().unwrap_or(scratch(plan.num_full_blocks)));"),
            (INPUTS, ".resize(rows, scratch(plan.num_windowed_blocks));",
             ".resize(rows, self.windowed_slots.first().copied().unwrap_or(scratch(plan.num_windowed_blocks)));"),
        ],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: padding row on the first block",
        suite="device",
        edits=[
            (INPUTS, "self.full_slots.resize(rows, scratch(plan.num_full_blocks));", "self.full_slots.resize(rows, scratch(0));"),
            (INPUTS, ".resize(rows, scratch(plan.num_windowed_blocks));", ".resize(rows, scratch(0));"),
        ],
        tests=DEVICE_PADDED,
    ),
    dict(
        name="device: padding row has a token to attend to",
        suite="device",
        edits=[(INPUTS, "self.lengths.resize(rows, 0);", "self.lengths.resize(rows, 1);")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: no block for padding rows",
        suite="device",
        edits=[("host/engine/src/runner/device.rs", "half_block * (u64::from(blocks) + 1)",
                "half_block * u64::from(blocks)")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: drawn token of the row with the same number",
        suite="device",
        edits=[(INPUTS, "drawn.get(before).copied()", "drawn.get(index.min(before)).copied()")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: block table of another prompt",
        suite="device",
        edits=[(INPUTS, "            table: self.num_sequences,\n", "            table: 0,\n")],
        tests=DEVICE_IS_CPU,
    ),
    dict(
        name="device: masks in reverse order",
        suite="device",
        edits=[("host/engine/src/runner/device.rs", "for &sequence in masked {", "for &sequence in masked.iter().rev() {")],
        tests=DEVICE_GRAMMAR,
    ),
    dict(
        name="device: penalties take the first row's token for the newest",
        suite="device",
        edits=[(DEVICE_SAMPLING, "newest: row as u32,", "newest: 0 * row as u32,")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: newest token counted to the prompt",
        suite="device",
        edits=[(DEVICE_SAMPLING, "u32::from(newest >= input.num_prompt_tokens)", "0 * u32::from(newest >= input.num_prompt_tokens)")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: draws tied to the row",
        suite="device",
        edits=[(DEVICE_SAMPLING, "sampler::random_bits(input.seed, newest + 1)", "sampler::random_bits(input.seed, row)")],
        tests=DEVICE_CHOOSES,
    ),
    dict(
        name="device: window missing at decode",
        suite="device",
        edits=[(DEVICE_FORWARD, """            window: layer.window,
            splits: shape.splits as u32,
""", """            window: 0,
            splits: shape.splits as u32,
""")],
        tests=DEVICE_IS_CPU,
    ),
    dict(
        name="device: the step ahead computes the same position again",
        suite="device",
        edits=[("host/engine/src/scheduler/ahead.rs", "let position = part.first_position + part.tokens.len();",
                "let position = part.first_position;")],
        tests=DEVICE_CHOOSES,
    ),
]
