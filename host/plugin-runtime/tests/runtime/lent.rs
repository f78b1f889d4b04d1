//! What guests are lent, each where it is granted and not otherwise: numbers, memory, time, chance.

use std::sync::Arc;

use gapura_plugin_runtime::{
    Binding, Chain, ChainError, FailureKind, Grants, Import, KV_ENTRY_BYTES, Kv, Limits, Services,
    Validated,
};
use gapura_test_guests as guests;

use crate::support::{HandClock, Values, bind, chain, chat, failure, load, services};

/// The message and status of the refusal by the first validator of `chain`.
async fn refused(chain: &Arc<Chain>, services: &Services, model: &str) -> (String, u16) {
    let validated = chain.start(services.clone()).validate(chat(model)).await;
    match validated.expect("no failure") {
        Validated::Refused { refusal, .. } => (refusal.message, refusal.status),
        Validated::Continue(_) => (String::new(), 200),
        other => panic!("neither accepted nor refused: {other:?}"),
    }
}

#[test]
fn what_is_not_granted_is_refused_by_name() {
    for (import, wasm) in [
        (Import::Metrics, guests::COUNTS),
        (Import::Kv, guests::REMEMBERS),
        (Import::Clock, guests::TELLS),
        (Import::Random, guests::CHANCE),
        (Import::Model, guests::ASKS),
        (Import::Http, guests::SENDS),
    ] {
        let plugin = load("guest", wasm);
        assert_eq!(plugin.imports(), [import]);
        let others = Import::ALL.into_iter().filter(|&other| other != import);
        let bound = |grants| Binding {
            grants,
            ..Binding::new(plugin.clone())
        };
        let render = bind(load("render", guests::RENDER));
        let denied = Chain::new("route", vec![bound(Grants::with(others)), render.clone()]);
        let denied = denied.expect_err("refused");
        assert!(
            matches!(&denied, ChainError::NotGranted { import: named, .. } if *named == import),
            "{denied}"
        );
        let advice = format!("add \"{import}\" to the `grants`");
        assert!(denied.to_string().contains(&advice), "{denied}");
        let granted = Chain::new("route", vec![bound(Grants::with([import])), render]);
        granted.expect("granted");
    }
}

#[tokio::test]
async fn numbers_carry_plugin_and_route() {
    let values = Arc::<Values>::default();
    let services = Services {
        values: Arc::clone(&values) as _,
        ..services()
    };
    let chain = chain(vec![bind(load("counts", guests::COUNTS))]);
    assert_eq!(refused(&chain, &services, "seen").await.1, 200);
    let seen = values.0.lock().expect("no panic").clone();
    assert_eq!(seen, ["counts route seen +2", "counts route seen 1.5"]);
}

/// Ten thousand calls are within the limit of calls: what they name is for the registry to bound.
#[tokio::test]
async fn more_calls_than_there_may_be_fail_the_guest() {
    let many = bind(load("many", guests::MANY_NAMES));
    let values = Arc::<Values>::default();
    let lent = Services {
        values: Arc::clone(&values) as _,
        ..services()
    };
    let granted = chain(vec![many.clone()]);
    assert_eq!(refused(&granted, &lent, "a").await.1, 200);
    assert_eq!(values.0.lock().expect("no panic").len(), 10_000);
    let limits = Limits {
        host_calls: 9_999,
        ..Limits::default()
    };
    let failure = failure(Binding { limits, ..many }).await;
    assert_eq!(failure.kind, FailureKind::HostCalls);
}

#[tokio::test]
async fn a_value_outlives_its_request() {
    let services = services();
    let chain = chain(vec![bind(load("remembers", guests::REMEMBERS))]);
    assert_eq!(
        refused(&chain, &services, "get").await.1,
        200,
        "nothing yet"
    );
    refused(&chain, &services, "sesuatu").await;
    assert_eq!(refused(&chain, &services, "get").await.0, "sesuatu");
    assert_eq!(refused(&chain, &services, "delete").await.1, 401);
    assert_eq!(refused(&chain, &services, "delete").await.1, 400);
    assert_eq!(refused(&chain, &services, "get").await.1, 200);
}

#[tokio::test]
async fn a_value_with_a_time_is_gone_after_it() {
    let clock = Arc::<HandClock>::default();
    let services = Services {
        clock: Arc::clone(&clock) as _,
        ..services()
    };
    let chain = chain(vec![bind(load("remembers", guests::REMEMBERS))]);
    refused(&chain, &services, "tadi").await;
    clock.set_ms(999);
    assert_eq!(refused(&chain, &services, "get").await.0, "tadi");
    clock.set_ms(1000);
    assert_eq!(refused(&chain, &services, "get").await.1, 200);
}

/// Another plugin, or the same one on another route, has a memory of its own; the next version of
/// the plugin has this one's.
#[tokio::test]
async fn memories_are_apart_and_survive_a_swap() {
    let services = services();
    let on = |route: &str, name: &str, wasm: &[u8]| {
        let render = bind(load("render", guests::RENDER));
        let bindings = vec![bind(load(name, wasm)), render];
        Arc::new(Chain::new(route, bindings).expect("a chain"))
    };
    // A custom section more makes another artefact of it.
    let next = [guests::REMEMBERS, &[0, 3, 1, b'x', b'2']].concat();
    let first = on("route", "remembers", guests::REMEMBERS);
    refused(&first, &services, "satu").await;
    let route = on("other", "remembers", guests::REMEMBERS);
    assert_eq!(refused(&route, &services, "get").await.1, 200);
    let name = on("route", "another", guests::REMEMBERS);
    assert_eq!(refused(&name, &services, "get").await.1, 200);
    let swapped = on("route", "remembers", &next);
    assert_ne!(swapped.label(), first.label());
    drop(first);
    assert_eq!(refused(&swapped, &services, "get").await.0, "satu");
    let elsewhere = Services {
        kv: Arc::<Kv>::default(),
        ..services
    };
    assert_eq!(refused(&swapped, &elsewhere, "get").await.1, 200);
}

#[tokio::test]
async fn a_memory_is_bounded_by_value_and_in_all() {
    let services = services();
    let chain = chain(vec![bind(load("remembers", guests::REMEMBERS))]);
    refused(&chain, &services, "sesuatu").await;
    let limit_kib = u16::try_from(KV_ENTRY_BYTES >> 10).expect("small");
    assert_eq!(refused(&chain, &services, "huge").await.1, 400 + limit_kib);
    assert_eq!(
        refused(&chain, &services, "get").await.0,
        "sesuatu",
        "it stays"
    );
    // 200 values of 20,000 bytes are four times as much as there may be.
    assert_eq!(refused(&chain, &services, "fill").await.1, 200);
    assert_eq!(
        refused(&chain, &services, "get").await.1,
        200,
        "it had to go"
    );
}

#[tokio::test]
async fn a_guest_is_told_the_time() {
    let clock = Arc::<HandClock>::default();
    clock.set_ms(1_760_000_000_007);
    let services = Services {
        clock,
        ..services()
    };
    let chain = chain(vec![bind(load("tells", guests::TELLS))]);
    assert_eq!(refused(&chain, &services, "a").await.1, 477);
}

/// WASI's date is the granted clock's, and the first second of 1970 without the grant.
#[tokio::test]
async fn wasi_tells_no_time_that_is_not_granted() {
    let clock = Arc::<HandClock>::default();
    clock.set_ms(1_760_000_003_999);
    let services = Services {
        clock,
        ..services()
    };
    let dated = load("dated", guests::DATED);
    let granted = chain(vec![bind(dated.clone())]);
    assert_eq!(refused(&granted, &services, "a").await.1, 403);
    let denied = chain(vec![Binding::new(dated)]);
    assert_eq!(refused(&denied, &services, "a").await.1, 400);
}

#[tokio::test]
async fn random_numbers_come_from_the_services_and_in_bounded_pieces() {
    let chance = bind(load("chance", guests::CHANCE));
    let granted = chain(vec![chance.clone()]);
    // The bytes 1 and 2, then bits of 3 to 10.
    let bits = u64::from_le_bytes([3, 4, 5, 6, 7, 8, 9, 10]) % 10;
    let status = 410 + u16::try_from(bits).expect("a digit");
    assert_eq!(refused(&granted, &services(), "a").await.1, status);
    let failure = failure(chance).await;
    assert_eq!(failure.kind, FailureKind::InvalidOutput);
    assert_eq!(
        failure.message,
        "asked for 4294967295 random bytes, 4096 are the most of a call"
    );
}

/// A host that scripts its random numbers scripts those of WASI, the seed of hash maps among them.
#[tokio::test]
async fn wasis_random_numbers_follow_from_the_services() {
    let chain = chain(vec![Binding::new(load("draws", guests::DRAWS))]);
    let first = refused(&chain, &services(), "a").await.0;
    assert_eq!(refused(&chain, &services(), "a").await.0, first);
    let on = services();
    on.random.fill(&mut [0]).expect("numbers");
    let other = refused(&chain, &on, "a").await.0;
    assert!(
        first[..8] != other[..8] && first[8..] != other[8..],
        "{first} {other}"
    );
}
