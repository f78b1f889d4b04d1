use std::time::Duration;

use gapura_plugin_runtime::{CallObserver as _, FailureKind, GuestCall, Outcome, Stage};

use super::*;

fn plugin(name: &str, digest: &str) -> PluginId {
    PluginId {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        digest: digest.repeat(32),
    }
}

fn accounts(ledger: &Ledger, route: &str, plugins: &[&PluginId]) -> Accounts {
    plugins.iter().map(|id| ledger.account(route, id)).collect()
}

fn call<'a>(
    plugin: &'a PluginId,
    function: &'static str,
    micros: u64,
    outcome: Outcome,
) -> GuestCall<'a> {
    GuestCall {
        plugin,
        route: "chat",
        stage: match function {
            "render" => Stage::Render,
            "push" | "finish" | "processor" => Stage::Respond,
            _ => Stage::Validate,
        },
        function,
        outcome,
        duration: Duration::from_micros(micros),
        memory_bytes: 1 << 16,
        fuel: None,
    }
}

#[test]
fn a_request_is_the_sum_of_its_calls_and_counts_once() {
    let (ledger, guard) = (Arc::<Ledger>::default(), plugin("guard", "ab"));
    let tally = ledger.tally(&accounts(&ledger, "chat", &[&guard]));
    for (function, micros) in [
        ("instantiate", 100),
        ("validate", 20),
        ("push", 3),
        ("push", 5),
    ] {
        tally.observe(&call(&guard, function, micros, Outcome::Answered));
    }
    assert_eq!(
        ledger.version("guard", &guard.digest).requests,
        0,
        "not over yet"
    );
    let costs = tally.costs();
    let took: Vec<_> = costs
        .iter()
        .map(|of| (of.stage, of.took.as_micros()))
        .collect();
    assert_eq!(took, [(Stage::Validate, 120), (Stage::Respond, 8)]);
    drop(tally);
    let totals = ledger.version("guard", &guard.digest);
    assert_eq!(
        (totals.requests, totals.failed, totals.deadlines),
        (1, 0, 0)
    );
    assert_eq!(totals.latency.sum(), Duration::from_micros(128));
    let status = &ledger.status("guard")[0];
    let calls = |stage: &str| status.stages[stage].calls;
    // Making an instance is none.
    assert_eq!((calls("validate"), calls("respond")), (1, 2));
    assert_eq!(status.memory_bytes, 1 << 16);
}

#[test]
fn failures_are_counted_by_kind_and_by_request() {
    let (ledger, guard) = (Arc::<Ledger>::default(), plugin("guard", "ab"));
    let booked = accounts(&ledger, "chat", &[&guard]);
    let tally = ledger.tally(&booked);
    let deadline = Outcome::Failed(FailureKind::Deadline);
    tally.observe(&call(&guard, "push", 5000, deadline));
    tally.observe(&call(&guard, "push", 5000, deadline));
    drop(tally);
    let tally = ledger.tally(&booked);
    tally.failed(&guard, Stage::Respond, FailureKind::HeldTooMuch);
    tally.held(&guard, 70_000);
    drop(tally);
    let tally = ledger.tally(&booked);
    tally.observe(&call(&guard, "validate", 5, Outcome::Refused));
    drop(tally);
    // A request that does not come to it.
    drop(ledger.tally(&booked));
    let totals = ledger.version("guard", &guard.digest);
    assert_eq!(
        (totals.requests, totals.failed, totals.deadlines),
        (3, 2, 1)
    );
    let status = &ledger.status("guard")[0];
    let respond = &status.stages["respond"];
    let failures = [("deadline", 2), ("held_too_much", 1)];
    assert_eq!(respond.failures, failures.into_iter().collect());
    assert_eq!(status.stages["validate"].refusals, 1);
    assert_eq!(status.held_bytes, 70_000);
}

#[test]
fn a_version_is_summed_over_routes_and_kept_apart_from_others() {
    let ledger = Arc::<Ledger>::default();
    let (old, new) = (plugin("guard", "ab"), plugin("guard", "cd"));
    for (route, id, count) in [("a", &old, 2), ("b", &old, 3), ("a", &new, 7)] {
        let booked = accounts(&ledger, route, &[id]);
        for _ in 0..count {
            ledger
                .tally(&booked)
                .observe(&call(id, "validate", 10, Outcome::Answered));
        }
    }
    let before = ledger.version("guard", &old.digest);
    assert_eq!((before.requests, before.latency.count()), (5, 5));
    assert_eq!(ledger.version("guard", &new.digest).requests, 7);
    assert_eq!(ledger.version("guard", "ff"), Totals::default());
    let booked = accounts(&ledger, "a", &[&old]);
    ledger
        .tally(&booked)
        .observe(&call(&old, "validate", 800, Outcome::Answered));
    let window = ledger.version("guard", &old.digest) - before;
    assert_eq!(window.requests, 1);
    let p50 = window.latency.quantile(0.5).unwrap().as_micros();
    assert!((750..850).contains(&p50), "{p50}");
}

#[test]
fn a_plugin_that_is_not_of_the_chain_has_its_own_account() {
    let ledger = Arc::<Ledger>::default();
    let (live, previous) = (plugin("guard", "cd"), plugin("guard", "ab"));
    let tally = ledger.tally(&accounts(&ledger, "chat", &[&live]));
    tally.observe(&call(
        &live,
        "validate",
        10,
        Outcome::Failed(FailureKind::Trap),
    ));
    tally.observe(&call(&previous, "validate", 10, Outcome::Answered));
    assert_eq!(tally.costs().len(), 2);
    drop(tally);
    let [live, previous] = [live, previous].map(|id| ledger.version("guard", &id.digest));
    assert_eq!((live.requests, live.failed), (1, 1));
    assert_eq!((previous.requests, previous.failed), (1, 0));
}

#[test]
fn accounts_of_retired_versions_are_kept_while_they_are_known_and_not_without_end() {
    let ledger = Arc::<Ledger>::default();
    let id = |number: usize| PluginId {
        digest: format!("{number:064x}"),
        ..plugin("guard", "")
    };
    let serving = accounts(&ledger, "chat", &[&id(0)]);
    for number in 1..=MAX_RETIRED + 10 {
        drop(accounts(&ledger, "chat", &[&id(number)]));
    }
    assert_eq!(
        ledger.status("guard").len(),
        MAX_RETIRED + 2,
        "one is new, one serves"
    );
    let digests = |ledger: &Ledger| {
        let status = ledger.status("guard").into_iter();
        status.map(|of| of.digest).collect::<Vec<_>>()
    };
    assert_eq!(digests(&ledger)[0], id(0).digest, "what serves stays");
    assert_eq!(digests(&ledger)[1], id(10).digest, "the oldest went");
    ledger.keep(|known| *known == id(100));
    assert_eq!(digests(&ledger), [id(0).digest, id(100).digest]);
    drop(serving);
    ledger.keep(|_| false);
    assert!(ledger.status("guard").is_empty());
}

#[test]
fn nothing_is_booked_while_it_is_off() {
    let (ledger, guard) = (Arc::<Ledger>::default(), plugin("guard", "ab"));
    ledger.switch(false);
    let tally = ledger.tally(&accounts(&ledger, "chat", &[&guard]));
    tally.observe(&call(&guard, "validate", 20, Outcome::Answered));
    // A request may be timed all the same.
    assert_eq!(tally.costs().len(), 1);
    drop(tally);
    assert!(ledger.status("guard").is_empty());
}
