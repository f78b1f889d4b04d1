//! What exists once per process: the engine, its clock, the pool of instances, the caches.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tracing::warn;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::bindings;
use crate::cache::Cache;
use crate::clock::{Clock, SystemClock};
use crate::error::{FailureKind, LoadError, RuntimeError};
use crate::guest::Failure;
use crate::limits::MAX_TABLE_ELEMENTS;
use crate::loader;
use crate::plugin::{Artifact, Plugin};
use crate::rooms::{Claim, Room, Rooms, TooMany};
use crate::slow::Slow;
use crate::state::GuestState;
use crate::ticker::Ticker;

/// Stack that the host's part of a call may need on top of the guest's: the tokenizer runs there.
const HOST_STACK_BYTES: usize = 3 << 19;
/// Core instances, memories and tables that one component may consist of. A component of one Rust
/// crate has three instances, one memory and two tables; one in Python has 38 instances, and one in
/// JavaScript a second memory, of no bytes.
const CORE_INSTANCES: u32 = 48;
const MEMORIES: u32 = 2;
const TABLES: u32 = 8;
/// Bytes of an instance that the pool keeps in memory for the next one.
const KEEP_RESIDENT_BYTES: usize = 512 << 10;
/// Bytes of host-side bookkeeping of one instance; Python and JavaScript guests need this much.
const INSTANCE_META_BYTES: usize = 2 << 20;

/// How the plugin runtime is set up.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Where compiled code is kept between starts; `None` keeps none. Default none.
    pub cache_dir: Option<PathBuf>,
    /// Most instances alive at once, over all routes. A request uses one or two while it is
    /// validated and rendered, and each of its answers one per processor from its first token on. A
    /// route may have as many as it leaves to the others, so half of them where it is alone. One
    /// takes 8 GiB of address space, and memory only once it is made. Default 1024.
    pub max_instances: u32,
    /// Largest component in bytes. Default 64 MiB.
    pub max_component_bytes: u64,
    /// Greatest value of [`Limits::memory_bytes`](crate::Limits::memory_bytes). Default 256 MiB.
    pub max_memory_bytes: u64,
    /// Stack of a guest in bytes. Default 512 KiB.
    pub stack_bytes: u64,
    /// How long a request waits for a free instance, where it is not given up before. Default
    /// 10 min, the gateway's default for a whole request.
    pub instance_wait: Duration,
    /// Reserves only `max_memory_bytes` of address space for each of an instance's two memories,
    /// instead of 4 GiB. Guests get up to a quarter slower; needed under `ulimit -v` or strict
    /// overcommit. Default false.
    pub small_reservations: bool,
    /// Counts what guests execute ([`GuestCall::fuel`](crate::GuestCall::fuel)), which makes them a
    /// fifth to a quarter slower: for tests. Default false.
    pub count_fuel: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_instances: 1024,
            max_component_bytes: 64 << 20,
            max_memory_bytes: 256 << 20,
            stack_bytes: 512 << 10,
            instance_wait: Duration::from_secs(600),
            small_reservations: false,
            count_fuel: false,
        }
    }
}

/// The process-wide runtime of plugins. Cheap to clone.
#[derive(Clone)]
pub struct PluginRuntime(Arc<Shared>);

/// What plugins keep alive of the runtime.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<GuestState>,
    pub(crate) ticker: Ticker,
    pub(crate) cache: Option<Cache>,
    /// Artefacts by digest, so that the same bytes are compiled once.
    pub(crate) artifacts: Mutex<HashMap<String, Weak<Artifact>>>,
    /// One load at a time is probed, with the pool's spare instance.
    pub(crate) probing: Mutex<()>,
    pub(crate) max_component_bytes: u64,
    pub(crate) max_memory_bytes: u64,
    pub(crate) counts_fuel: bool,
    /// By which circuit breakers give another chance.
    pub(crate) clock: Arc<dyn Clock>,
    /// For all instances but the loader's.
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) slow: Slow,
    instance_wait: Duration,
}

impl PluginRuntime {
    /// Starts the engine and its clock.
    ///
    /// # Errors
    /// [`RuntimeError`]: a cache directory that cannot be written, a setting out of range, no
    /// thread. Too little address space is none: instances are then made on demand, and the log
    /// says so.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// The same, with the clock by which circuit breakers give plugins another chance.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_clock(config: RuntimeConfig, clock: Arc<dyn Clock>) -> Result<Self, RuntimeError> {
        check(&config)?;
        let engine = engine(&config)?;
        let mut linker = Linker::new(&engine);
        let linked = bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .and_then(|()| wasmtime_wasi::p2::add_to_linker_async(&mut linker));
        linked.map_err(|error| RuntimeError::Engine {
            message: format!("{error:#}"),
        })?;
        let cache = config
            .cache_dir
            .as_deref()
            .map(|path| Cache::open(path, &engine))
            .transpose()?;
        let ticker = Ticker::start(engine.clone()).map_err(RuntimeError::Thread)?;
        Ok(Self(Arc::new(Shared {
            engine,
            linker,
            ticker,
            cache,
            artifacts: Mutex::default(),
            probing: Mutex::new(()),
            max_component_bytes: config.max_component_bytes,
            max_memory_bytes: config.max_memory_bytes,
            counts_fuel: config.count_fuel,
            clock,
            rooms: Rooms::new(config.max_instances),
            slow: Slow::default(),
            instance_wait: config.instance_wait,
        })))
    }

    /// Verifies, compiles (or takes from the cache), links and probes the component `wasm`. Takes
    /// up to seconds of all cores: never call it on a request's path or an async thread.
    ///
    /// # Errors
    /// [`LoadError`], naming what is wrong; nothing is kept of a refused artefact.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Plugin, LoadError> {
        loader::load(&self.0, name, wasm)
    }

    /// Whether `name` can be the name of a plugin.
    ///
    /// # Errors
    /// [`LoadError::Name`].
    pub fn check_name(name: &str) -> Result<(), LoadError> {
        loader::check_name(name)
    }

    /// Instances that are free at the moment.
    pub fn free_instances(&self) -> usize {
        self.0.rooms.free() as usize
    }
}

impl std::fmt::Debug for PluginRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginRuntime")
            .field("max_instances", &self.0.rooms.max())
            .finish()
    }
}

impl Shared {
    /// Waits for the room that `claim` wants, not for ever.
    pub(crate) async fn reserve(&self, claim: Claim<'_>) -> Result<Arc<Room>, Failure> {
        let reserving = self.rooms.reserve(claim);
        let max = self.rooms.max();
        let message = match tokio::time::timeout(self.instance_wait, reserving).await {
            Ok(Ok(room)) => return Ok(Arc::new(room)),
            Ok(Err(TooMany)) => format!(
                "the chain needs {} instances at once, the pool has {max}",
                claim.count
            ),
            Err(_) => format!(
                "none of {max} instances became free in {:?}",
                self.instance_wait
            ),
        };
        Err(Failure::new(FailureKind::Exhausted, message))
    }
}

fn check(config: &RuntimeConfig) -> Result<(), RuntimeError> {
    let within = |name, value: u64, min: u64, max: u64, expected| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err(RuntimeError::Setting {
                name,
                value,
                expected,
            })
        }
    };
    within(
        "max_instances",
        config.max_instances.into(),
        1,
        10_000,
        "must be 1 to 10000",
    )?;
    within(
        "max_component_bytes",
        config.max_component_bytes,
        8,
        1 << 30,
        "must be 8 bytes to 1 GiB",
    )?;
    within(
        "max_memory_bytes",
        config.max_memory_bytes,
        64 << 10,
        4 << 30,
        "must be 64 KiB to 4 GiB",
    )?;
    within(
        "stack_bytes",
        config.stack_bytes,
        64 << 10,
        16 << 20,
        "must be 64 KiB to 16 MiB",
    )
}

fn engine(config: &RuntimeConfig) -> Result<Engine, RuntimeError> {
    let mut pooled = base(config);
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config)));
    let error = match Engine::new(&pooled) {
        Ok(engine) => return Ok(engine),
        Err(error) => error,
    };
    warn!(
        error = format!("{error:#}"),
        max_instances = config.max_instances,
        "no address space for the pool of plugin instances: making each on demand, which is \
         slower; lower max_instances, or reserve less for each"
    );
    Engine::new(&base(config)).map_err(|error| RuntimeError::Engine {
        message: format!("{error:#}"),
    })
}

fn base(config: &RuntimeConfig) -> Config {
    let stack_bytes = config.stack_bytes as usize;
    let mut base = Config::new();
    base.epoch_interruption(true)
        .consume_fuel(config.count_fuel)
        .concurrency_support(false)
        // No toolchain of plugins has it, and the limits and reservations are those of 32 bits.
        .wasm_memory64(false)
        .max_wasm_stack(stack_bytes)
        .async_stack_size(stack_bytes + HOST_STACK_BYTES);
    if config.small_reservations {
        base.memory_reservation(config.max_memory_bytes)
            .memory_guard_size(64 << 10);
    }
    base
}

fn pool(config: &RuntimeConfig) -> PoolingAllocationConfig {
    // One more than are lent to requests: the loader's probe.
    let count = config.max_instances + 1;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(count)
        .total_core_instances(count * CORE_INSTANCES)
        .total_memories(count * MEMORIES)
        .total_tables(count * 6)
        .total_stacks(count)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_component_instance_size(INSTANCE_META_BYTES)
        .max_core_instance_size(INSTANCE_META_BYTES)
        .max_memory_size(config.max_memory_bytes as usize)
        .table_elements(MAX_TABLE_ELEMENTS as usize)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 << 10);
    pool
}
