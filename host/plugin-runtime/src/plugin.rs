//! A loaded plugin: one verified, compiled and linked component under a name.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::component::InstancePre;

use crate::bindings::Indices;
use crate::runtime::Shared;
use crate::state::GuestState;

/// A point of the pipeline at which plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// `request-validation`: judges requests.
    Validate,
    /// `prompt-template`: makes the prompt.
    Render,
    /// `response-processing`: works on answers.
    Respond,
    /// `completion-observer`: hears how answers ended.
    Observe,
}

impl Stage {
    /// Every stage, in the order of the pipeline.
    pub const ALL: [Self; 4] = [Self::Validate, Self::Render, Self::Respond, Self::Observe];

    /// The stage as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Render => "render",
            Self::Respond => "respond",
            Self::Observe => "observe",
        }
    }

    /// The interface of the contract that a plugin of this stage exports.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Validate => "request-validation",
            Self::Render => "prompt-template",
            Self::Respond => "response-processing",
            Self::Observe => "completion-observer",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An interface of the contract that the host offers to plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Import {
    /// Lines in the host's log.
    Log,
    /// The binding's settings.
    Config,
    /// Counting tokens.
    Tokenizer,
    /// Numbers in the host's metrics.
    Metrics,
    /// Values that outlive a request.
    Kv,
    /// The time.
    Clock,
    /// Random numbers.
    Random,
    /// Questions to the loaded model.
    Model,
    /// HTTP requests to allowed hosts.
    Http,
}

impl Import {
    /// Every import.
    pub const ALL: [Self; 9] = [
        Self::Log,
        Self::Config,
        Self::Tokenizer,
        Self::Metrics,
        Self::Kv,
        Self::Clock,
        Self::Random,
        Self::Model,
        Self::Http,
    ];

    /// The interface's name in the contract, which is also its name in a route's `grants`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Config => "config",
            Self::Tokenizer => "tokenizer",
            Self::Metrics => "metrics",
            Self::Kv => "kv",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Model => "model",
            Self::Http => "http",
        }
    }

    /// The import whose interface is `name`, if there is one.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|import| import.as_str() == name)
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which plugin, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PluginId {
    /// The name that routes use.
    pub name: String,
    /// The version that the author wrote into the component; `0.0.0` where there is none.
    pub version: String,
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
}

impl PluginId {
    /// `name@version+digest`, the digest cut to six digits: `guard@1.2.0+ab12cd`.
    pub fn label(&self) -> String {
        format!("{}@{}+{}", self.name, self.version, &self.digest[..6])
    }
}

/// What was learned and made of one artefact; shared by every name that loaded the same bytes.
pub(crate) struct Artifact {
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
    pub(crate) imports: Vec<Import>,
    pub(crate) uses_wasi: bool,
    pub(crate) pre: InstancePre<GuestState>,
    pub(crate) indices: Indices,
    pub(crate) shared: Arc<Shared>,
}

/// A loaded plugin. Cheap to clone; its compiled code is freed with the last clone.
#[derive(Clone)]
pub struct Plugin(Arc<PluginInner>);

struct PluginInner {
    id: PluginId,
    label: String,
    stages: Vec<Stage>,
    artifact: Arc<Artifact>,
}

impl Plugin {
    pub(crate) fn new(name: &str, artifact: Arc<Artifact>) -> Self {
        let id = PluginId {
            name: name.to_owned(),
            version: artifact.version.clone(),
            digest: artifact.digest.clone(),
        };
        let label = id.label();
        let stages = artifact.indices.stages();
        Self(Arc::new(PluginInner {
            id,
            label,
            stages,
            artifact,
        }))
    }

    /// Which plugin, exactly.
    pub fn id(&self) -> &PluginId {
        &self.0.id
    }

    /// The name that it was loaded under.
    pub fn name(&self) -> &str {
        &self.0.id.name
    }

    /// The version that the author wrote into the component; `0.0.0` where there is none.
    pub fn version(&self) -> &str {
        &self.0.id.version
    }

    /// SHA-256 of the component, 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.0.id.digest
    }

    /// See [`PluginId::label`].
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Bytes of the component.
    pub fn size_bytes(&self) -> u64 {
        self.0.artifact.size_bytes
    }

    /// The stages that it exports, in the order of the pipeline; never empty.
    pub fn stages(&self) -> &[Stage] {
        &self.0.stages
    }

    /// Whether it exports `stage`.
    pub fn has(&self, stage: Stage) -> bool {
        self.0.stages.contains(&stage)
    }

    /// The contract's imports that it uses, each to be granted by the route.
    pub fn imports(&self) -> &[Import] {
        &self.0.artifact.imports
    }

    /// Those of its imports that a binding has to grant: all but its own settings.
    pub fn grants_needed(&self) -> impl Iterator<Item = Import> {
        let imports = self.imports().iter().copied();
        imports.filter(|import| *import != Import::Config)
    }

    /// Whether it imports WASI, which it gets empty: no files, environment, sockets or stdio.
    pub fn uses_wasi(&self) -> bool {
        self.0.artifact.uses_wasi
    }

    /// Everything that the component imports, as it is written there: with versions, the contract's
    /// types and WASI included.
    pub fn import_names(&self) -> Vec<String> {
        let artifact = &self.0.artifact;
        let component = artifact.pre.component().component_type();
        let imports = component.imports(&artifact.shared.engine);
        imports.map(|(name, _)| name.to_owned()).collect()
    }

    /// Everything that the component exports, as it is written there.
    pub fn export_names(&self) -> Vec<String> {
        let artifact = &self.0.artifact;
        let component = artifact.pre.component().component_type();
        let exports = component.exports(&artifact.shared.engine);
        exports.map(|(name, _)| name.to_owned()).collect()
    }

    pub(crate) fn artifact(&self) -> &Artifact {
        &self.0.artifact
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("id", &self.0.id)
            .field("stages", &self.0.stages)
            .finish()
    }
}
