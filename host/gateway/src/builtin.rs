//! The plugins that the binary carries, so that a model can be served without any file beside
//! it. They are ordinary components: listed, inspected and replaced like any other.

use std::sync::LazyLock;

use crate::config::Digest;

/// A component that is part of the binary.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// The plugin's name.
    pub name: &'static str,
    /// The component.
    pub bytes: &'static [u8],
}

/// ChatML turns: `<|im_start|>role`.
const CHATML: Builtin = Builtin {
    name: "chatml",
    bytes: include_bytes!(env!("GAPURA_BUILTIN_CHATML")),
};

/// Gemma 2 and 3 turns: `<start_of_turn>role`.
const GEMMA_CHAT: Builtin = Builtin {
    name: "gemma-chat",
    bytes: include_bytes!(env!("GAPURA_BUILTIN_GEMMA_CHAT")),
};

/// All of them.
pub const BUILTINS: [Builtin; 2] = [CHATML, GEMMA_CHAT];

/// Whether the component with this SHA-256 is one of them.
pub fn is_one(digest: &str) -> bool {
    static DIGESTS: LazyLock<[String; 2]> =
        LazyLock::new(|| BUILTINS.map(|builtin| Digest::of(builtin.bytes).to_hex()));
    DIGESTS.iter().any(|known| known == digest)
}

/// What a route writes to get the template plugin that suits the model.
pub const TEMPLATE: &str = "template";

/// That plugin until the model's architecture is known.
pub const DEFAULT_TEMPLATE: &str = CHATML.name;

/// The template plugin that suits an architecture, as [`ModelInfo`](gapura_engine::ModelInfo)
/// names it.
pub fn template_for(architecture: &str) -> &'static str {
    match architecture {
        "gemma2" | "gemma3" | "gemma3_text" => GEMMA_CHAT.name,
        _ => CHATML.name,
    }
}
