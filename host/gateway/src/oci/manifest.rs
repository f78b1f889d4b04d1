//! The manifest of a component, read and written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Publication, error::printable};
use crate::config::Digest;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// Asked for too, so that a registry shows them and they can be refused by name.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
/// What people call it; of a layer, the name of its file.
const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";
/// Where a detached signature of the component travels.
const SIGNATURE: &str = "dev.gapura.signature";

/// Of a manifest, in the parts that matter here.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Names content.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// The one layer of a manifest, and what else it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) signature: Option<String>,
}

/// Why a manifest is none of a component.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no manifest at all.
    Unreadable(String),
    /// It is that of something else.
    Other(String),
}

/// The component that `text` is the manifest of.
pub(super) fn read(text: &[u8]) -> Result<Layer, Refused> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| Refused::Unreadable(error.to_string()))?;
    if value.get("manifests").is_some() {
        let reason = "it is an index of several artefacts; name one of them by its digest";
        return Err(Refused::Other(reason.to_owned()));
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|error| Refused::Unreadable(error.to_string()))?;
    let media_type = manifest.media_type.as_deref().unwrap_or(MANIFEST);
    if manifest.schema_version != 2 || media_type != MANIFEST {
        let media_type = printable(media_type);
        let reason =
            format!("its manifest is of type {media_type}, that of a plugin is {MANIFEST}");
        return Err(Refused::Other(reason));
    }
    if manifest.config.media_type != CONFIG {
        let media_type = printable(&manifest.config.media_type);
        let reason = format!("its config is of type {media_type}, that of a plugin is {CONFIG}");
        return Err(Refused::Other(reason));
    }
    let [layer] = manifest.layers.as_slice() else {
        let count = manifest.layers.len();
        return Err(Refused::Other(format!(
            "it has {count} layers, a plugin has one"
        )));
    };
    if layer.media_type != LAYER {
        let media_type = printable(&layer.media_type);
        let reason = format!("its layer is of type {media_type}, that of a plugin is {LAYER}");
        return Err(Refused::Other(reason));
    }
    let digest = layer
        .digest
        .strip_prefix("sha256:")
        .and_then(Digest::from_hex)
        .ok_or_else(|| Refused::Unreadable("its layer has no SHA-256".to_owned()))?;
    Ok(Layer {
        digest,
        size: layer.size,
        signature: manifest.annotations.get(SIGNATURE).cloned(),
    })
}

/// The manifest of `publication`, and its config. The same component makes the same bytes, and so
/// the same digest, whenever and by whomever it is published.
pub(super) fn write(publication: &Publication<'_>) -> (Vec<u8>, Vec<u8>) {
    let component = Digest::of(publication.component).to_string();
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "author": null,
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [component],
        "component": {
            "exports": publication.exports,
            "imports": publication.imports,
            "target": null,
        },
    });
    let config = config.to_string().into_bytes();
    let mut annotations = BTreeMap::from([
        (TITLE.to_owned(), publication.title.to_owned()),
        (VERSION.to_owned(), publication.version.to_owned()),
    ]);
    annotations.extend(
        publication
            .signature
            .map(|signature| (SIGNATURE.to_owned(), signature.to_owned())),
    );
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor {
            media_type: CONFIG.to_owned(),
            digest: Digest::of(&config).to_string(),
            size: config.len() as u64,
            annotations: BTreeMap::new(),
        },
        layers: vec![Descriptor {
            media_type: LAYER.to_owned(),
            digest: component,
            size: publication.component.len() as u64,
            // As `wkg` does it, so that tools know what to call the file.
            annotations: BTreeMap::from([(
                TITLE.to_owned(),
                format!("{}.wasm", publication.title),
            )]),
        }],
        annotations,
    };
    let manifest = serde_json::to_vec(&manifest).expect("text and numbers become JSON");
    (manifest, config)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn publication<'a>(signature: Option<&'a str>) -> Publication<'a> {
        Publication {
            component: b"\0asm",
            title: "persona",
            version: "1.2.0",
            exports: vec!["gapura:plugin/prompt-template@0.1.0".to_owned()],
            imports: Vec::new(),
            signature,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for signature in [None, Some("c2lnbmVk")] {
            let (manifest, _) = write(&publication(signature));
            let layer = read(&manifest).unwrap();
            assert_eq!(layer.digest, Digest::of(b"\0asm"));
            assert_eq!(layer.size, 4);
            assert_eq!(layer.signature.as_deref(), signature);
        }
    }

    /// What `wkg oci push` 0.16.1 (oci-wasm 0.6.0) laid down for `persona.wasm`, as it was.
    const WKG_MANIFEST: &str = r#"{"config":{"digest":"sha256:9eb86525dd147e052555c5134edc8cef45d84efad4798807afc22dcec6f2cb2f","mediaType":"application/vnd.wasm.config.v0+json","size":361},"layers":[{"annotations":{"org.opencontainers.image.title":"persona.wasm"},"digest":"sha256:fb57a45f01df32692309b4ddc5bf99c11986b64be64f41127468d1348348e9b2","mediaType":"application/wasm","size":70864}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#;
    const WKG_CONFIG: &str = r#"{"created":"2026-11-28T13:11:16.778365422Z","author":null,"architecture":"wasm","os":"wasip2","layerDigests":["sha256:fb57a45f01df32692309b4ddc5bf99c11986b64be64f41127468d1348348e9b2"],"component":{"exports":["gapura:plugin/request-validation@0.1.0"],"imports":["gapura:plugin/log@0.1.0","gapura:plugin/config@0.1.0","gapura:plugin/types@0.1.0"],"target":null}}"#;

    #[test]
    fn what_wkg_writes_is_read() {
        let config: Value = serde_json::from_str(WKG_MANIFEST).unwrap();
        assert_eq!(config["config"]["size"], WKG_CONFIG.len());
        let layer = read(WKG_MANIFEST.as_bytes()).unwrap();
        let digest = "sha256:fb57a45f01df32692309b4ddc5bf99c11986b64be64f41127468d1348348e9b2";
        assert_eq!(layer.digest.to_string(), digest);
        assert_eq!((layer.size, layer.signature), (70864, None));
    }

    #[test]
    fn what_is_written_has_the_form_that_wkg_gives_it() {
        let interfaces = |names: &[&str]| -> Vec<String> {
            let names = names.iter();
            names
                .map(|name| format!("gapura:plugin/{name}@0.1.0"))
                .collect()
        };
        let (manifest, config) = write(&Publication {
            exports: interfaces(&["request-validation"]),
            imports: interfaces(&["log", "config", "types"]),
            ..publication(None)
        });
        let mut theirs: Value = serde_json::from_str(WKG_CONFIG).unwrap();
        let ours: Value = serde_json::from_slice(&config).unwrap();
        // It is another component, and the same component makes the same config at any time.
        theirs["layerDigests"] = json!([Digest::of(b"\0asm").to_string()]);
        theirs["created"] = json!("1970-01-01T00:00:00Z");
        assert_eq!(ours, theirs);
        let theirs: Value = serde_json::from_str(WKG_MANIFEST).unwrap();
        let ours: Value = serde_json::from_slice(&manifest).unwrap();
        for same in [
            "/schemaVersion",
            "/mediaType",
            "/config/mediaType",
            "/layers/0/mediaType",
            "/layers/0/annotations",
        ] {
            assert!(ours.pointer(same).is_some(), "{same}");
            assert_eq!(ours.pointer(same), theirs.pointer(same), "{same}");
        }
        let keys = |value: &Value| -> BTreeSet<String> {
            let map = value.as_object().expect("an object");
            map.keys().cloned().collect()
        };
        assert_eq!(keys(&ours["config"]), keys(&theirs["config"]));
        assert_eq!(keys(&ours["layers"][0]), keys(&theirs["layers"][0]));
    }

    #[test]
    fn other_artefacts_are_refused_by_name() {
        let (manifest, _) = write(&publication(None));
        let good: Value = serde_json::from_slice(&manifest).unwrap();
        let with = |pointer: &str, value: Value| {
            let mut other = good.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            read(other.to_string().as_bytes()).unwrap_err()
        };
        let other = |error: Refused| match error {
            Refused::Other(reason) => reason,
            Refused::Unreadable(reason) => panic!("{reason}"),
        };
        let image = "application/vnd.oci.image.config.v1+json";
        assert!(other(with("/config/mediaType", json!(image))).contains(image));
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        assert!(other(with("/mediaType", json!(docker))).contains(docker));
        assert!(other(with("/layers/0/mediaType", json!("text/x\u{1b}[2J"))).contains("text/x[2J"));
        assert!(other(with("/layers", json!([]))).contains("0 layers"));
        let index = br#"{"schemaVersion": 2, "manifests": []}"#;
        assert!(other(read(index).unwrap_err()).contains("index"));
        for unreadable in [
            with("/layers/0/digest", json!("sha512:00")),
            with("/layers/0/size", json!(-1)),
            read(b"<html>").unwrap_err(),
            read(b"[]").unwrap_err(),
        ] {
            assert!(
                matches!(unreadable, Refused::Unreadable(_)),
                "{unreadable:?}"
            );
        }
    }
}
