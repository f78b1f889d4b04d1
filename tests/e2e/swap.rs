//! Plugins change while streams run: nothing fails, nothing mixes, nothing is left behind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use gapura_test_guests as guests;

use crate::process::{Process, stream};
use crate::versions::within;

const STREAMS: usize = 32;
const SWAPS: usize = 200;
/// Swaps before memory is first looked at: until then pools and caches fill.
const WARM_UP: usize = 40;
const MAX_GROWTH_BYTES: u64 = 16 << 20;

/// A stream takes about 40 steps of 2 ms, in which several swaps happen.
const CONFIG: &str = "[engine]\nsim_step_ms = 2\n[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n";

/// The guest that puts each delta into `[` and `]`, changed to `<` and `>`.
pub(crate) fn angled() -> Vec<u8> {
    let mut component = guests::BRACKETS.to_vec();
    // `i32.const` of the bracket, as LEB128.
    for (from, to) in [([0x41, 0xdb, 0x00], 0xbc), ([0x41, 0xdd, 0x00], 0xbe)] {
        let places: Vec<usize> = (0..component.len() - 2)
            .filter(|at| component[*at..at + 3] == from)
            .collect();
        assert_eq!(
            places.len(),
            1,
            "the guest is another one than this test knows"
        );
        component[places[0] + 1] = to;
    }
    component
}

/// Which version made an answer; an error if it was not one alone.
fn version(answer: &str) -> Result<char, String> {
    let squares = answer.matches('[').count();
    let angles = answer.matches('<').count();
    match (squares, angles) {
        (1.., 0) => Ok('['),
        (0, 1..) => Ok('<'),
        _ => Err(format!(
            "{squares} deltas of one version and {angles} of the other: {answer}"
        )),
    }
}

#[test]
fn two_hundred_swaps_under_load_fail_and_mix_nothing() {
    let angled = angled();
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let (stop, squares, angles) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let mut early_bytes = 0;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|index| {
                let (url, stop, squares, angles) = (&server.url, &stop, &squares, &angles);
                scope.spawn(move || {
                    let agent = Process::agent();
                    let prompt = format!("tolong ulangi nomor {index}");
                    while !stop.load(Relaxed) {
                        match version(&stream(&agent, url, &prompt)?)? {
                            '[' => squares.fetch_add(1, Relaxed),
                            _ => angles.fetch_add(1, Relaxed),
                        };
                    }
                    Ok(())
                })
            })
            .collect();
        for swap in 0..SWAPS {
            let component = if swap % 2 == 0 {
                &angled
            } else {
                guests::BRACKETS
            };
            let (status, body) = server.push("mark", component);
            assert_eq!(status, 201, "swap {swap}: {body}");
            assert_eq!(body["state"], "live");
            if swap == WARM_UP {
                early_bytes = server.resident_bytes();
            }
        }
        stop.store(true, Relaxed);
        let ended = streams
            .into_iter()
            .map(|stream| stream.join().expect("no stream panics"));
        ended
            .filter_map(|result: Result<(), String>| result.err())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} streams failed; the first: {}",
        failures.len(),
        failures[0]
    );
    assert!(
        squares.load(Relaxed) > 0 && angles.load(Relaxed) > 0,
        "both versions answered"
    );
    let growth = server.resident_bytes().saturating_sub(early_bytes);
    assert!(
        growth <= MAX_GROWTH_BYTES,
        "{growth} bytes more after {SWAPS} swaps"
    );
}

#[test]
fn a_stream_ends_on_the_version_that_it_began_with() {
    let config = CONFIG.replace("sim_step_ms = 2", "sim_step_ms = 20");
    let angled = angled();
    let server = Process::start(&config, &[("mark", guests::BRACKETS)]);
    // Both are compiled from here on, so that the swap takes no time beside the stream's 4 s.
    for component in [&angled, guests::BRACKETS] {
        assert_eq!(server.push("mark", component).0, 201);
    }
    let prompt = "sebuah jawaban yang panjang ".repeat(7);
    let answer = std::thread::scope(|scope| {
        let under_way = scope.spawn(|| stream(&Process::agent(), &server.url, &prompt));
        within(30, "a sequence runs", || num_running(&server.url) == 1);
        assert_eq!(server.push("mark", &angled).0, 201);
        assert!(
            !under_way.is_finished(),
            "the stream was over before the swap"
        );
        under_way.join().expect("no panic")
    });
    assert_eq!(version(&answer.unwrap()), Ok('['));
    let next = stream(&Process::agent(), &server.url, "lagi").unwrap();
    assert_eq!(version(&next), Ok('<'));
}

#[test]
fn a_refused_component_leaves_the_old_one_serving() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let (status, body) = server.push("mark", &guests::BRACKETS[..guests::BRACKETS.len() / 2]);
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (422, Some("truncated_component"))
    );
    let answer = stream(&Process::agent(), &server.url, "halo").unwrap();
    assert_eq!(version(&answer), Ok('['));
}

#[test]
fn the_folder_is_as_good_as_a_push() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    std::fs::write(server.dir.path().join("plugins/mark.wasm"), angled()).unwrap();
    let agent = Process::agent();
    within(30, "the file is taken", || {
        version(&stream(&agent, &server.url, "halo").unwrap()) == Ok('<')
    });
}

fn num_running(url: &str) -> usize {
    let scraped = Process::agent().get(format!("{url}/metrics")).call();
    let text = scraped.expect("an answer").body_mut().read_to_string();
    let text = text.expect("an answer of text");
    let running = text
        .lines()
        .find_map(|line| line.strip_prefix("gapura_requests_running "));
    running.expect("the gauge").parse().expect("a number")
}
