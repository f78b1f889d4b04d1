//! Clients that come, wait, read slowly and leave.

use super::*;

/// A runner that notes how many sequences each of its steps has.
fn noting(runner: SimRunner) -> (SimRunner, Arc<Mutex<Vec<usize>>>) {
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let noted = Arc::clone(&sizes);
    let runner = runner.with_faults(move |_, batch| {
        noted.lock().unwrap().push(batch.sequences.len());
        None
    });
    (runner, sizes)
}

/// The sizes of the steps that were surely put together after this call, `count` of them: the
/// step that is under way, or about to be, is not among them.
fn next_sizes(sizes: &Mutex<Vec<usize>>, count: usize) -> Vec<usize> {
    let under_way = sizes.lock().unwrap().len();
    let first = under_way + 1;
    wait_until("the steps have run", || {
        sizes.lock().unwrap().len() >= first + count
    });
    sizes.lock().unwrap()[first..first + count].to_vec()
}

#[test]
fn a_dropped_stream_frees_its_blocks_within_a_step() {
    let answer = "z".repeat(2000);
    let (runner, sizes) = noting(SimRunner::default().answering(&answer).with_latency(SLOW));
    // The whole prompt in one step, so that a running sequence has all its blocks.
    let config = EngineConfig {
        max_batched_tokens: 512,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let stays = engine.submit(request("y", 2000)).unwrap();
    let stays = std::thread::spawn(move || read(stays));
    let gone = engine.submit(request(&"x".repeat(400), 2000)).unwrap();
    wait_until("both have their blocks", || {
        engine.stats().full_blocks.used >= 26
    });
    drop(gone);
    assert_eq!(next_sizes(&sizes, 3), [1, 1, 1]);
    assert!(engine.stats().full_blocks.used < 26);
    engine.blocking_shutdown(Duration::ZERO);
    assert!(stays.join().unwrap().1.is_err());
}

#[test]
fn a_newcomer_joins_while_others_decode() {
    let answer = "z".repeat(2000);
    let (runner, sizes) = noting(SimRunner::default().answering(&answer).with_latency(SLOW));
    let engine = start(runner, EngineConfig::default());
    let mut first = engine.submit(request("a", 2000)).unwrap();
    first.blocking_next().unwrap();
    let first = std::thread::spawn(move || read(first));
    let _second = engine.submit(request("b", 2000)).unwrap();
    assert_eq!(next_sizes(&sizes, 3), [2, 2, 2]);
    engine.blocking_shutdown(Duration::ZERO);
    assert!(first.join().unwrap().1.is_err());
}

#[test]
fn a_full_queue_is_said_at_once() {
    // So slow that the running one never fills its channel, which would free its seat.
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(100),
        ..SLOW
    };
    let runner = SimRunner::default()
        .answering(&"z".repeat(500))
        .with_latency(latency);
    let config = EngineConfig {
        max_num_seqs: 1,
        max_queued: 2,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let mut running = engine.submit(request("a", 500)).unwrap();
    running.blocking_next().unwrap();
    let _waiting = [request("b", 5), request("c", 5)].map(|one| engine.submit(one).unwrap());
    assert_eq!(engine.stats().waiting, 2);
    let error = engine.submit(request("d", 5)).unwrap_err();
    assert_eq!(error.to_string(), "2 requests are waiting already");
    drop(running);
    wait_until("the queue moves", || engine.submit(request("e", 5)).is_ok());
}

#[test]
fn a_client_that_does_not_read_pauses_alone() {
    let engine = start(
        SimRunner::default().answering(&"z".repeat(300)),
        EngineConfig {
            max_num_seqs: 1,
            ..EngineConfig::default()
        },
    );
    let slow = engine.submit(request("slow", 400)).unwrap();
    wait_until("its channel is full", || engine.stats().decode_tokens > 50);
    let (quick, _) = read(engine.submit(request("quick", 400)).unwrap());
    assert_eq!(quick.len(), 300);
    // Nothing was lost for it meanwhile.
    let (text, end) = read(slow);
    assert_eq!(text.len(), 300);
    assert_eq!(end.unwrap().0, FinishReason::Stop);
}

#[test]
fn handles_go_anywhere() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<Engine>();
}
