//! An empty WASI: no files, no environment, no arguments, no sockets, no stdio.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng as _;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};

use super::{GuestState, Profile, RequestScope};
use crate::clock::Clock;
use crate::random::Random;
use crate::services::Told;

/// Most bytes of one random read.
const RANDOM_BYTES: u64 = 64 << 10;
/// Most resources (streams, pollables) alive in one instance.
const RESOURCES: usize = 256;

/// Made when first used: most plugins never do, some only at their first hash map.
pub(super) struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (profile, request) = (&self.profile, Arc::clone(self.request()));
        let wasi = self.wasi.get_or_insert_with(|| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(RESOURCES);
            let mut context = WasiCtx::builder();
            context
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .max_random_size(RANDOM_BYTES);
            seed(&mut context, &*request.services.random);
            if profile.grants.clock {
                let clock = || Granted {
                    profile: Arc::clone(profile),
                    clock: Arc::clone(&request.services.clock),
                    request: Arc::downgrade(&request),
                };
                context.wall_clock(clock()).monotonic_clock(clock());
            } else {
                context
                    .wall_clock(Stopped::default())
                    .monotonic_clock(Stopped::default());
            }
            let context = context.build();
            Box::new(Wasi { context, table })
        });
        WasiCtxView {
            ctx: &mut wasi.context,
            table: &mut wasi.table,
        }
    }
}

/// Puts generators of their own into `context`, seeded by `random` once: WASI draws byte by byte, and
/// whoever scripts `random` has scripted these. Where there is no seed the context keeps its own.
fn seed(context: &mut WasiCtxBuilder, random: &dyn Random) {
    let mut seeds = [[0; 32]; 3];
    if random.seed(seeds.as_flattened_mut()).is_err() {
        return;
    }
    let [secure, insecure, number] = seeds;
    let number = number.first_chunk().expect("16 of 32 bytes");
    context
        .secure_random(ChaCha12Rng::from_seed(secure))
        .insecure_random(ChaCha12Rng::from_seed(insecure))
        .insecure_random_seed(u128::from_le_bytes(*number));
}

/// The clock of a guest that is granted one.
struct Granted {
    profile: Arc<Profile>,
    clock: Arc<dyn Clock>,
    /// The request in which it was made: an instance that serves others keeps it, for it may hold
    /// handles of it.
    request: Weak<RequestScope>,
}

impl Granted {
    fn told(&self, told: Told<'_>) {
        if let Some(request) = self.request.upgrade() {
            let observer = &request.services.observer;
            observer.told(&self.profile.id, told);
        }
    }
}

impl HostWallClock for Granted {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        self.told(Told::NowMs(now_ms));
        Duration::from_millis(now_ms)
    }
}

impl HostMonotonicClock for Granted {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let now_ns = self.clock.monotonic_ns();
        self.told(Told::MonotonicNs(now_ns));
        now_ns
    }
}

/// The clock of a guest that is granted none: 1970, and a microsecond more for each look at the
/// monotonic one, so that nothing that waits for it to go on waits for ever.
#[derive(Default)]
struct Stopped(AtomicU64);

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Stopped {
    fn resolution(&self) -> u64 {
        1000
    }

    fn now(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}
