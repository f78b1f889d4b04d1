//! The clock of all guests: one thread that raises the engine's epoch while guests are alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// How often running guests are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks that go on when no guest is alive: most requests take less, and waking the thread for each
/// would cost more than a plugin does.
const IDLE_TICKS: u32 = 20;

/// Ticks while at least one [`Alive`] exists and for a while longer, and sleeps otherwise. Ends with
/// the value.
pub(crate) struct Ticker {
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counters {
    alive: AtomicUsize,
    /// The thread sleeps, or is about to.
    parked: AtomicBool,
    stop: AtomicBool,
}

/// A guest that needs ticks.
pub(crate) struct Alive(Arc<Counters>);

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let counters = Arc::<Counters>::default();
        let shared = Arc::clone(&counters);
        let thread = thread::Builder::new()
            .name("plugin-epoch".to_owned())
            .spawn(move || tick(&engine, &shared))?;
        Ok(Self {
            counters,
            thread: Some(thread),
        })
    }

    /// Keeps the ticks coming until the answer is dropped.
    pub(crate) fn alive(&self) -> Alive {
        self.counters.alive.fetch_add(1, Ordering::SeqCst);
        if self.counters.parked.load(Ordering::SeqCst) {
            self.wake();
        }
        Alive(Arc::clone(&self.counters))
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &Engine, counters: &Counters) {
    let mut next = Instant::now();
    let mut idle_ticks = 0;
    while !counters.stop.load(Ordering::SeqCst) {
        if counters.alive.load(Ordering::SeqCst) > 0 {
            idle_ticks = 0;
        } else if idle_ticks < IDLE_TICKS {
            idle_ticks += 1;
        } else {
            // Either this thread sees the guest that begins now, or that one sees `parked`; and an
            // unpark before the park is kept.
            counters.parked.store(true, Ordering::SeqCst);
            if counters.alive.load(Ordering::SeqCst) == 0 && !counters.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            counters.parked.store(false, Ordering::SeqCst);
            next = Instant::now();
            idle_ticks = 0;
            continue;
        }
        // Towards fixed points in time, so that late wake-ups do not stretch the ticks. Missed
        // ticks are not made up for: no guest ran longer because of them.
        next += TICK;
        let now = Instant::now();
        if next > now {
            thread::sleep(next - now);
        } else {
            next = now;
        }
        engine.increment_epoch();
    }
}
