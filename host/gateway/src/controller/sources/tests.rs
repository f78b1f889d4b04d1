//! What is decided while a version is on its way.

use std::fs;

use super::{
    super::tests::{CHATML, label, marked, start},
    *,
};
use crate::{
    config::Digest,
    oci::stub::{Stub, manifest_of},
};

fn wanting(stub: &Stub, component: &[u8]) -> String {
    let manifest = Digest::of(&manifest_of(component, component.len()));
    format!(
        "[plugins]\ndir = 'plugins'\n\
         [plugins.sources]\nchatml = 'oci://{}/persona@{manifest}'\n\
         [[routes]]\nname = 'one'\nplugins = [{{ plugin = 'chatml' }}]\n",
        stub.authority
    )
}

#[test]
fn a_version_that_is_wanted_no_more_when_it_could_serve_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let component = marked(CHATML, "overtaken");
    let served = component.clone();
    let stub = Stub::start(
        move |request, _| match request.line.contains("/manifests/") {
            true => (200, vec![], manifest_of(&served, served.len())),
            false => (200, vec![], served.clone()),
        },
    );
    let controller = start(dir.path(), &wanting(&stub, &component)).unwrap();
    let before = label(&controller, "one");
    let source = controller.wanted()["chatml"].clone();
    let wanted = &source.live;
    let digest = controller
        .prepare("chatml", &source.config, wanted)
        .unwrap();
    let digest = digest.expect("it may serve");
    // The file changes while it is verified.
    let other = marked(CHATML, "newer");
    fs::write(dir.path().join("gapura.toml"), wanting(&stub, &other)).unwrap();
    controller.reload(Origin::Admin).unwrap();
    controller
        .put_in_service("chatml", wanted, &digest)
        .unwrap();
    assert_eq!(label(&controller, "one"), before);
    // Nor is what comes late kept in place of what is wanted now.
    let pulled = Pulled {
        component: component.into(),
        signature: None,
    };
    assert_eq!(controller.keep("chatml", wanted, &pulled).unwrap(), None);
    // Wanted again, it goes on from where it was.
    fs::write(
        dir.path().join("gapura.toml"),
        wanting(&stub, &marked(CHATML, "overtaken")),
    )
    .unwrap();
    controller.reload(Origin::Admin).unwrap();
    controller
        .put_in_service("chatml", wanted, &digest)
        .unwrap();
    assert_ne!(label(&controller, "one"), before);
}
