//! Computes what every prompt of a route begins with before the route serves: its chain renders
//! two probes, and what both begin with up to the template's `prefix-end` is computed in the
//! engine's low lane and kept there. Best effort: a chain that refuses the probes, an engine
//! that is busy or too slow, and the first request computes it instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gapura_engine::{Engine, GenerateRequest, Lane, TokenEvent, TokenId, Tokenizer};
use gapura_plugin_runtime::{Chain, Chat, Message, Rendered, Role, Sampling, Validated};
use tokio::runtime::Handle;

use super::{prompt, services};
use crate::app::new_call_id;
use crate::routing::Route;

/// What two people might say: a prefix that holds either is none.
const PROBES: [&str; 2] = ["Hello?", "12 plus 30 is"];

/// Computes prefixes on a loaded model.
pub struct Prefill {
    engine: Engine,
    tokenizer: Tokenizer,
    runtime: Handle,
}

impl Prefill {
    /// For the model behind `engine`; guests run on `runtime`.
    pub fn new(engine: Engine, tokenizer: Tokenizer, runtime: Handle) -> Self {
        Self {
            engine,
            tokenizer,
            runtime,
        }
    }

    /// Computes the prefixes of `routes`, one after the other, and returns after `within` at
    /// the latest. Blocks: not for async code.
    pub fn routes<'a>(&self, routes: impl Iterator<Item = &'a Route>, within: Duration) {
        let deadline = Instant::now() + within;
        for route in routes {
            let name = &route.name;
            // Made inside, for a timeout needs the runtime's clock from the start.
            let outcome = self.runtime.block_on(async {
                tokio::time::timeout_at(deadline.into(), self.route(route, deadline)).await
            });
            match outcome {
                Ok(Ok(0)) => {}
                Ok(Ok(tokens)) => tracing::info!(route = name, tokens, "computed the prefix"),
                Ok(Err(reason)) => tracing::debug!(route = name, reason, "computed no prefix"),
                Err(_) => tracing::info!(route = name, ?within, "gave up computing the prefix"),
            }
        }
    }

    /// The tokens computed; 0 where the prompts of `route` have no prefix worth keeping.
    async fn route(&self, route: &Route, deadline: Instant) -> Result<usize, String> {
        let [one, other] = PROBES;
        let (prompt, num_prefix) = self.probe(route, one).await?;
        let (second, num_second) = self.probe(route, other).await?;
        let alike = |count: usize| prompt.get(..count) == second.get(..count);
        if num_prefix != num_second || !alike(num_prefix) {
            return Err("the prefix depends on what is asked".to_owned());
        }
        if num_prefix < gapura_engine::BLOCK_TOKENS {
            return Ok(0);
        }
        self.compute(prompt, num_prefix, deadline).await?;
        Ok(num_prefix)
    }

    /// The prompt for somebody who says `text`, and how much of it is the prefix.
    async fn probe(&self, route: &Route, text: &str) -> Result<(Vec<TokenId>, usize), String> {
        let services = services::quiet(self.tokenizer.clone());
        let mut run = Arc::<Chain>::clone(&route.chain).start(services);
        let validated = run.validate(chat(route, text)).await;
        let chat = match validated.map_err(|failure| failure.to_string())? {
            Validated::Continue(chat) => chat,
            _ => return Err("a validator does not let the probe through".to_owned()),
        };
        let rendered = run.render(&chat).await;
        let rendered = match rendered.map_err(|failure| failure.to_string())? {
            Rendered::Prompt(prompt) => prompt,
            Rendered::Refused { .. } => return Err("the template refuses the probe".to_owned()),
            Rendered::Answered { .. } => return Err("the template fails".to_owned()),
        };
        let ids = prompt::encode(&self.tokenizer, &rendered.segments)
            .map_err(|name| format!("there is no control token `{name}`"))?;
        Ok((ids.all, ids.num_prefix))
    }

    async fn compute(
        &self,
        mut prompt: Vec<TokenId>,
        num_prefix: usize,
        deadline: Instant,
    ) -> Result<(), String> {
        // The row of the last token scores what follows it, so that one is not computed.
        prompt.truncate(num_prefix + 1);
        let mut request = GenerateRequest::new("prefill", prompt, 0);
        request.queue.lane = Lane::Low;
        request.queue.deadline = Some(deadline);
        request.cache.prefix_tokens = num_prefix;
        let mut stream = self
            .engine
            .submit(request)
            .map_err(|error| error.to_string())?;
        loop {
            match stream.next().await {
                Some(TokenEvent::Finished { .. }) => return Ok(()),
                Some(TokenEvent::Failed(error)) => return Err(error.to_string()),
                Some(_) => {}
                None => return Err("the engine has ended".to_owned()),
            }
        }
    }
}

fn chat(route: &Route, text: &str) -> Chat {
    Chat {
        request_id: "prefill".to_owned(),
        route: route.name.clone(),
        model: route.name.clone(),
        tenant: None,
        stream: false,
        messages: vec![Message {
            role: Role::User,
            content: vec![text.to_owned()],
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }],
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: new_call_id(),
    }
}
