//! The plugins that the binary carries, so that a model can be served without any file beside
//! it. They are ordinary components: listed, inspected and replaced like any other.

/// The template of the default route until the model's architecture is known.
pub const DEFAULT_TEMPLATE: &str = "chatml";

/// The template plugin that suits an architecture, as [`ModelInfo`](gapura_engine::ModelInfo)
/// names it.
pub fn template_for(architecture: &str) -> &'static str {
    match architecture {
        "gemma2" | "gemma3" | "gemma3_text" => "gemma-chat",
        _ => DEFAULT_TEMPLATE,
    }
}
